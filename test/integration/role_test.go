//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/probe/report"
)

// whoAmI reads the probe's answer.
func whoAmI(tb testing.TB, r ec2.Result) report.Report {
	tb.Helper()
	var who report.Report
	if err := json.Unmarshal(r.Stdout, &who); err != nil {
		tb.Fatalf("the probe did not answer: exit %d, stdout %q, stderr %s", r.Exit, r.Stdout, r.Stderr)
	}
	return who
}

// wantRole checks that the answer is that of the role, and that both buckets were listed.
func wantRole(tb testing.TB, r ec2.Result, role string) {
	tb.Helper()
	who := whoAmI(tb, r)
	if want := "arn:aws:sts::123456789012:assumed-role/" + role + "/"; !strings.HasPrefix(who.ARN, want) {
		tb.Errorf("the container is %q (%s), want %s…", who.ARN, who.Errors.First(), want)
	}
	if diff := cmp.Diff([]string{cloud.Reports, cloud.Uploads}, who.Buckets); diff != "" {
		tb.Errorf("ListBuckets: %s\n%s", who.Errors.First(), diff)
	}
}

func TestPlainContainersAreTheHostOrNobody(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		wantRole(t, w.run(t, "", ec2.NetworkBridge), cloud.InstanceRole)
		if who := whoAmI(t, w.run(t, "", ec2.NetworkNone)); who.Errors.Credentials == "" {
			t.Errorf("a plain container without a network is %q, want no credentials", who.ARN)
		}
	})
}

func TestRoleOnEveryNetwork(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for _, network := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkNone} {
			t.Run(string(network), func(t *testing.T) { wantRole(t, w.run(t, "reader", network), cloud.TaskReader) })
		}
	})
}

func TestRoleByRuntimeOnAnEngineWithCDI(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	wantRole(t, w.start(t, ec2.Container{Role: "reader", Way: container.WayShim, Network: ec2.NetworkNone}), cloud.TaskReader)
}

func TestContainersAtTheSameTimeHaveTheirOwnRoles(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		reader, writer := w.live(t, ec2.Container{Role: "reader"}), w.live(t, ec2.Container{Role: "writer"})
		wantRole(t, w.exec(t, reader, "identity"), cloud.TaskReader)
		wantRole(t, w.exec(t, writer, "identity"), cloud.TaskWriter)
		roles := map[string]string{}
		for _, a := range w.attached(t) {
			roles[string(a.ID)] = a.Role
		}
		if diff := cmp.Diff(map[string]string{reader: "reader", writer: "writer"}, roles); diff != "" {
			t.Error(diff)
		}
	})
}

// TestExecShellGetsTheRole: the engine gives a docker exec none of the variables that CDI or the runtime added, so
// what the shell finds it finds through IMDS.
func TestExecShellGetsTheRole(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader"})
		if r := w.exec(t, id, "env", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); len(r.Stdout) > 0 {
			t.Logf("this engine does pass it on: %s", r.Stdout)
		}
		wantRole(t, w.exec(t, id, "identity"), cloud.TaskReader)
	})
}

func TestRestartedContainerGetsTheRoleAgain(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader"})
		before := w.pid(t, id)
		w.must(t, "restart", "--time=1", id)
		if w.pid(t, id) == before {
			t.Fatal("the container was not restarted")
		}
		wantRole(t, w.exec(t, id, "identity"), cloud.TaskReader)
		if n := len(w.attached(t)); n != 1 {
			t.Errorf("%d containers are attached after a restart, want 1", n)
		}
	})
}

func TestApplicationOnPort80KeepsItAndHasTheRole(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for name, attach := range map[string]func(*testing.T) string{
			"bound_after_attach": func(t *testing.T) string {
				return w.live(t, ec2.Container{Role: "reader", Args: []string{"serve"}})
			},
			"bound_before_attach": func(t *testing.T) string {
				id := w.live(t, ec2.Container{Args: []string{"serve"}})
				w.answers(t, id) // it is listening
				if code, words := w.hook(t, "reader", w.state(t, id)); code != 0 {
					t.Fatalf("the hook of a running container: exit %d, %s", code, words)
				}
				return id
			},
		} {
			t.Run(name, func(t *testing.T) {
				id := attach(t)
				w.answers(t, id)
				wantRole(t, w.exec(t, id, "identity"), cloud.TaskReader)
				w.answers(t, id)
			})
		}
	})
}

// answers checks that a neighbour on the bridge reaches the application on the container's port 80.
func (w *world) answers(tb testing.TB, id string) {
	tb.Helper()
	ip := w.must(tb, "inspect", "--format={{.NetworkSettings.Networks.bridge.IPAddress}}", id)
	eventually(tb, func() error {
		r := w.run(tb, "", ec2.NetworkBridge, "get", "http://"+ip+"/")
		if !strings.Contains(string(r.Stdout), "the application itself") {
			return fmt.Errorf("the application on %s:80 answers %q %s", ip, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// state is what a runtime would tell a hook about a container that runs.
func (w *world) state(tb testing.TB, id string) []byte {
	tb.Helper()
	b, err := json.Marshal(map[string]any{"ociVersion": "1.0.2", "id": id, "status": "created", "pid": w.pid(tb, id), "bundle": "/bundle"})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestEgressLeadsOnlyToTheListedEndpoint(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader", Network: ec2.NetworkNone})
		proxy := "HTTP_PROXY=http://127.0.0.1:61170"
		get := func(url string) string {
			r, err := w.docker.Exec(t.Context(), "exec", "--env="+proxy, id, "/probe", "get", "-proxy", url)
			if err != nil {
				t.Fatal(err)
			}
			return string(r.Stdout) + string(r.Stderr)
		}
		// S3 refuses an unsigned request, and that is S3 and not the proxy.
		if got := get(w.instance.ServicesURL() + "/"); !strings.Contains(got, "AccessDenied") {
			t.Errorf("the listed endpoint answered %s", got)
		}
		for _, url := range []string{w.instance.ControlURL(), "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", w.instance.ServicesURL() + ":81/"} {
			if got := get(url); !strings.Contains(got, " 403 ") || !strings.Contains(got, "egress-denied") {
				t.Errorf("%s, which nobody listed, answered %s", url, got)
			}
		}
		if got := w.run(t, "", ec2.NetworkNone, "get", "-timeout=3s", w.instance.ServicesURL()); got.Exit == 0 {
			t.Errorf("a plain container without a network reached %s: the test proves nothing", got.Stdout)
		}
	})
}

func TestReloadWithProblemsKeepsTheOldConfiguration(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.rewrite(t, "rolls: {}\n")
		before := len(w.log())
		w.reload(t)
		eventually(t, func() error {
			if said := w.log()[before:]; !strings.Contains(said, "config.yaml:1:1") {
				return fmt.Errorf("the agent does not name the problem's place: %s", said)
			}
			return nil
		})
		wantRole(t, w.run(t, "reader", ec2.NetworkNone), cloud.TaskReader)
	})
}

func TestReloadTakesARoleAway(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{}) // plain
		kept, _, _ := strings.Cut(w.config(), "  untrusted:")
		w.rewrite(t, strings.Replace(kept, "  writer:", "  author:", 1))
		w.reload(t)
		eventually(t, func() error {
			if code, words := w.hook(t, "writer", w.state(t, id)); code == 0 || !strings.Contains(words, "[role-unknown]") {
				return fmt.Errorf("exit %d: %s", code, words)
			}
			return nil
		})
		wantRole(t, w.run(t, "author", ec2.NetworkNone), cloud.TaskWriter)
	})
}

func (w *world) reload(tb testing.TB) {
	tb.Helper()
	if err := w.agent.Process.Signal(syscall.SIGHUP); err != nil {
		tb.Fatal(err)
	}
}
