//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/control"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// taskrole runs taskrole in the instance, with the agent's configuration.
func (w *world) taskrole(tb testing.TB, args ...string) ec2.Result {
	tb.Helper()
	return w.host(tb, nil, append(append([]string{bin("taskrole")}, args...), "--config="+w.configPath())...)
}

// host is onHost with the result of a container.
func (w *world) host(tb testing.TB, env []string, words ...string) ec2.Result {
	tb.Helper()
	stdout, stderr, exit := w.onHost(tb, env, words...)
	return ec2.Result{Exit: exit, Stdout: []byte(stdout), Stderr: []byte(stderr)}
}

func TestRolesAreTriedAtAWS(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	r := w.taskrole(t, "roles", "--check")
	out := string(r.Stdout)
	for _, want := range []string{"ok      reader     arn:aws:iam::123456789012:role/task-s3-reader\n", "FAILED  untrusted  ", "possible: the trust policy does not name arn:aws:iam::123456789012:role/ec2-instance-role\n", "into the trust policy of task-untrusted:\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if r.Exit != 1 || !strings.Contains(string(r.Stderr), "taskrole: error: 1 of ") {
		t.Errorf("exit %d, stderr %s", r.Exit, r.Stderr)
	}
}

// A container without a role gets a snapshot of one by docker's own --env-file.
func TestEnvForDockersEnvFile(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		r := w.taskrole(t, "env", "reader", "--format", "docker")
		if r.Exit != 0 || len(r.Stderr) > 0 {
			t.Fatalf("exit %d, stderr %s", r.Exit, r.Stderr)
		}
		file := filepath.Join(w.dir, "run", "reader.env") // where the engine sees it too
		if err := os.WriteFile(file, r.Stdout, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file)
		args := []string{"run", "--rm", "--pull=never", "--network=bridge", "--env-file=" + file}
		for _, kv := range w.environment() {
			args = append(args, "--env="+kv)
		}
		got, err := w.docker.Exec(t.Context(), append(args, "probe", "identity")...)
		if err != nil {
			t.Fatal(err)
		}
		if who := whoAmI(t, got); !strings.HasSuffix(who.ARN, ":assumed-role/"+cloud.TaskReader+"/reader-env") {
			t.Errorf("the container is %+v", who)
		}
		if log := w.log(); !strings.Contains(log, `"credentials handed out","role":"reader","use":"env","uid":0`) {
			t.Errorf("nothing in the log says who took them:\n%s", log)
		}
	})
}

// Two SDKs run taskrole themselves, as a profile's credential_process.
func TestEnvAsCredentialProcess(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	profile := func(program, config string) string {
		return fmt.Sprintf("[profile reader]\ncredential_process = %s env reader --format process --config %s\n", program, config)
	}
	env := func(file string) []string {
		return []string{"AWS_CONFIG_FILE=" + file, "AWS_PROFILE=reader", "AWS_EC2_METADATA_DISABLED=true"}
	}
	t.Run("go", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(profile(bin("taskrole"), w.configPath())), 0o600); err != nil {
			t.Fatal(err)
		}
		r := w.host(t, env(file), bin("taskrole-lab-probe"), "identity")
		if who := whoAmI(t, r); !strings.HasSuffix(who.ARN, "/reader-env") {
			t.Errorf("the client is %+v: %s", who, r.Stderr)
		}
	})
	t.Run("aws", func(t *testing.T) {
		root := tree("client") // Debian's aws lives there; the agent's directory and our programs are put in its way
		w.bind(t, filepath.Dir(bin("taskrole")), filepath.Join(root, "opt"))
		w.bind(t, w.dir, filepath.Join(root, "mnt"))
		config := strings.ReplaceAll(w.config(), "socket: "+w.dir, "socket: /mnt")
		for name, text := range map[string]string{"inside.yaml": config, "aws": profile("/opt/taskrole", "/mnt/inside.yaml")} {
			file := filepath.Join(w.dir, name)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(file)
		}
		r := w.host(t, env("/mnt/aws"), "chroot", root, "aws", "--endpoint-url", w.instance.ServicesURL(), "sts", "get-caller-identity", "--query", "Arn", "--output", "text")
		if !strings.HasSuffix(strings.TrimSpace(string(r.Stdout)), "/reader-env") {
			t.Errorf("exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
		}
	})
}

// bind mounts a directory on another until the test ends. It is seen here alone: the tests have their own mounts.
func (w *world) bind(tb testing.TB, from, to string) {
	tb.Helper()
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(to, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
}

// The instance's own role, without agent or configuration.
func TestEnvOfTheInstance(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	r := w.host(t, nil, bin("taskrole"), "env", "--instance", "--format", "json")
	env := map[string]string{}
	if err := json.Unmarshal(r.Stdout, &env); err != nil || r.Exit != 0 {
		t.Fatalf("exit %d, stdout %s, stderr %s: %v", r.Exit, r.Stdout, r.Stderr, err)
	}
	words := []string{"AWS_EC2_METADATA_DISABLED=true"}
	for name, value := range env {
		words = append(words, name+"="+value)
	}
	r = w.host(t, words, bin("taskrole-lab-probe"), "identity")
	if who := whoAmI(t, r); !strings.Contains(who.ARN, ":assumed-role/"+cloud.InstanceRole+"/") {
		t.Errorf("the client is %+v: %s", who, r.Stderr)
	}
}

// Go's SDK does not say who it is when it asks for credentials.
func TestPsShowsContainersAndTheirClients(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.live(t, ec2.Container{Name: "ps-a", Role: "reader", Network: ec2.NetworkBridge, Args: []string{"do", "identity", "--", "sleep", "10m"}})
		w.live(t, ec2.Container{Name: "ps-b", Role: "writer", Network: ec2.NetworkNone})
		if r := w.start(t, ec2.Container{Name: "ps-c", Role: "keeper", Network: ec2.NetworkNone}); r.Exit == 0 {
			t.Fatal("a container got a role that is not for it")
		}
		eventually(t, func() error {
			r := w.taskrole(t, "ps")
			for _, want := range []string{
				`(?m)^ps-a\treader\tok\t\d+m\t\d+s ago\tGo-http-client/1.1\tprobe\tbridge\t` + string(w.way) + `\tecs,pod-identity,imds,full-uri,proxy\treader-\w+$`,
				`(?m)^ps-b\twriter\tok\t\d+m\tnever\t-\tprobe\tnone\t`,
				`(?m)^\w+\tkeeper\trole-not-allowed\t\d+s ago\t1\t` + string(w.way) + `\tcontainer ps-c may not have the role keeper`,
			} {
				if !regexp.MustCompile(want).Match(r.Stdout) {
					return fmt.Errorf("nothing like %s in\n%s%s", want, r.Stdout, r.Stderr)
				}
			}
			return nil
		})
	})
}

// Somebody with NET_ADMIN in its namespace can only break a container's own role, and ps says so.
func TestPsSaysWhatIsBroken(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	id := w.live(t, ec2.Container{Name: "ps-broken", Role: "reader", Network: ec2.NetworkBridge})
	pid := strconv.Itoa(w.pid(t, id))
	if out, err := exec.Command("nsenter", "--net=/proc/"+pid+"/ns/net", "ip", "addr", "del", "169.254.170.2/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	r := w.taskrole(t, "ps", "--json")
	var list control.ListReply
	if err := json.Unmarshal(r.Stdout, &list); err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Containers {
		if string(c.ID) == id {
			if !strings.Contains(c.Missing, "169.254.170.2") {
				t.Errorf("missing: %q", c.Missing)
			}
			return
		}
	}
	t.Errorf("the container is not listed: %s", r.Stdout)
}
