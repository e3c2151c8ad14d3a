//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// confined are the options of a container that cannot listen in on others in its network namespace.
var confined = []string{"--cap-drop=NET_RAW"}

// credentialsOf asks for the credentials of whoever asks, from inside a running container.
func (w *world) credentialsOf(tb testing.TB, id string) string {
	tb.Helper()
	return string(w.exec(tb, id, "get", "http://169.254.170.2/v2/credentials/any").Stdout)
}

func wantCredentials(tb testing.TB, answer, role string) {
	tb.Helper()
	if !strings.Contains(answer, "200 OK") || !strings.Contains(answer, ":role/"+role+`"`) {
		tb.Errorf("the answer is no credentials of %s: %.200s", role, answer)
	}
}

func wantNotTheirs(tb testing.TB, answer string) {
	tb.Helper()
	if !strings.Contains(answer, "404 ") || !strings.Contains(answer, "not-this-container") || strings.Contains(answer, "ASIA") {
		tb.Errorf("the answer to somebody without a role: %.300s", answer)
	}
}

// neighbours are containers that share a network: two of them have a role, and one has none.
func neighbours(t *testing.T, w *world, network ec2.Network) (reader, writer, none string) {
	t.Helper()
	start := func(role string) string {
		return w.live(t, ec2.Container{Role: role, Network: network, Options: confined})
	}
	reader, writer, none = start("reader"), start("writer"), start("")
	wantCredentials(t, w.credentialsOf(t, reader), cloud.TaskReader)
	wantCredentials(t, w.credentialsOf(t, writer), cloud.TaskWriter)
	wantNotTheirs(t, w.credentialsOf(t, none))
	wantRole(t, w.start(t, ec2.Container{Role: "reader", Network: network, Options: confined}), cloud.TaskReader)
	wantRole(t, w.start(t, ec2.Container{Role: "writer", Network: network, Options: confined}), cloud.TaskWriter)
	return reader, writer, none
}

func TestHostNetwork(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		reader, writer, _ := neighbours(t, w, ec2.NetworkHost)
		wantNotTheirs(t, w.onInstance(t, bin("taskrole-lab-probe"), "get", "http://169.254.170.2/v2/credentials/reader"))
		refused(t, w.start(t, ec2.Container{Role: "writer", Network: ec2.NetworkHost}), "namespace-shared", "has NET_RAW or NET_ADMIN")
		for _, a := range w.attached(t) {
			if !a.Host || !a.Shared || a.Missing != "" || strings.Contains(strings.Join(a.Endpoints, " "), "169.254.169.254") {
				t.Errorf("listed as %+v", a)
			}
		}
		// IMDS is the host's own there, and stays so.
		if got := string(w.exec(t, reader, "get", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", "http://169.254.169.254/latest/api/token").Stdout); !strings.Contains(got, "200 OK") {
			t.Errorf("the host's IMDS: %.200s", got)
		}
		w.must(t, "kill", reader)
		wantCredentials(t, w.credentialsOf(t, writer), cloud.TaskWriter)
		w.must(t, "kill", writer)
		eventually(t, func() error {
			if lo := w.onInstance(t, "ip", "-4", "addr", "show", "dev", "lo"); strings.Contains(lo, "169.254.170.2") {
				return fmt.Errorf("after the last container lo has %s", lo)
			}
			return nil
		})
	})
}

// onInstance runs a program of the instance itself, outside every container, and returns what it prints.
func (w *world) onInstance(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(tb.Context(), name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "AWS_EC2_METADATA_DISABLED=true"}
	cmd.Stdout, cmd.Stderr = &out, &out
	err := w.instance.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		tb.Fatal(err)
	}
	return out.String()
}

func TestECSAgentOnTheHostIsLeftAlone(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	ecs := exec.Command(bin("taskrole-lab-probe"), "serve", "-listen", "127.0.0.1:51679")
	if err := w.instance.Start(ecs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ecs.Process.Kill(); _ = ecs.Wait() })
	host := ec2.Container{Role: "reader", Network: ec2.NetworkHost}
	eventually(t, func() error {
		if r := w.start(t, host); !strings.Contains(string(r.Stderr), "[host-network]") || !strings.Contains(string(r.Stderr), "an ECS agent listens on port 51679") {
			return fmt.Errorf("beside an ECS agent: exit %d, %s", r.Exit, r.Stderr)
		}
		return nil
	})
	wantRole(t, w.run(t, "reader", ec2.NetworkBridge), cloud.TaskReader) // other containers are no concern of its
}

func TestNetworkOfAnotherContainer(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		pause := w.live(t, ec2.Container{Network: ec2.NetworkNone, Options: confined})
		network := ec2.Network("container:" + pause)
		reader, writer, none := neighbours(t, w, network)
		wantNotTheirs(t, w.credentialsOf(t, pause))
		refused(t, w.start(t, ec2.Container{Role: "keeper", Name: "keeper-shared", Network: network}), "namespace-shared", "has NET_RAW or NET_ADMIN")
		w.must(t, "kill", reader) // its attach made what the others use
		eventually(t, func() error {
			if n := len(w.attached(t)); n != 1 {
				return fmt.Errorf("%d attached", n)
			}
			return nil
		})
		wantCredentials(t, w.credentialsOf(t, writer), cloud.TaskWriter)
		w.must(t, "restart", "--time=0", writer)
		wantCredentials(t, w.credentialsOf(t, writer), cloud.TaskWriter)
		wantNotTheirs(t, w.credentialsOf(t, none))
	})
}

// A neighbour with Docker's own default, NET_RAW, could read the other's answers.
func TestTwoRolesBesideAContainerThatListensInAreRefused(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	pause := w.live(t, ec2.Container{Network: ec2.NetworkNone}) // has NET_RAW
	network := ec2.Network("container:" + pause)
	reader := w.live(t, ec2.Container{Role: "reader", Network: network, Options: confined})
	refused(t, w.start(t, ec2.Container{Role: "writer", Network: network, Options: confined}), "namespace-shared", "has NET_RAW or NET_ADMIN")
	wantRole(t, w.start(t, ec2.Container{Role: "reader", Network: network}), cloud.TaskReader) // one role: nothing to overhear
	wantCredentials(t, w.credentialsOf(t, reader), cloud.TaskReader)
}
