//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// refused checks that a container did not start, and that the engine shows our sentence with its code and a way out.
func refused(tb testing.TB, r ec2.Result, code, sentence string) {
	tb.Helper()
	if r.Exit == 0 || len(r.Stdout) > 0 {
		tb.Errorf("the container started: exit %d, stdout %s", r.Exit, r.Stdout)
	}
	said := string(r.Stderr)
	if !strings.Contains(said, "["+code+"]") || !strings.Contains(said, sentence) {
		tb.Errorf("the engine says %q, want it to contain %q and [%s]", said, sentence, code)
	}
}

func TestRefusedContainersDoNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		container      ec2.Container
		code, sentence string
	}{
		"policy": {ec2.Container{Role: "keeper", Name: "somebody-else"}, "role-not-allowed", "somebody-else may not have the role keeper"},
		"sts":    {ec2.Container{Role: "untrusted"}, "sts-denied", "not authorized to perform: sts:AssumeRole"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, w *world) {
				refused(t, w.start(t, c.container), c.code, c.sentence)
				if l := w.attached(t); len(l) > 0 {
					t.Errorf("attached after a refusal: %+v", l)
				}
			})
		})
	}
}

func TestPolicyKnowsTheContainersName(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		who := whoAmI(t, w.start(t, ec2.Container{Role: "keeper", Name: "keeper-1"}))
		if !strings.Contains(who.ARN, "assumed-role/"+cloud.TaskReader+"/") {
			t.Errorf("keeper-1 is %q (%s)", who.ARN, who.Errors.First())
		}
	})
}

// TestUnknownRole: with CDI the engine itself does not know the device; by the runtime the sentence is ours.
func TestUnknownRole(t *testing.T) {
	w := use(t, worlds["docker-20.10"])
	refused(t, w.run(t, "raeder", ec2.NetworkNone), "role-unknown", "raeder")
	w = use(t, worlds["docker-28.5"])
	if r := w.run(t, "raeder", ec2.NetworkNone); r.Exit == 0 || !strings.Contains(string(r.Stderr), "taskrole/role=raeder") {
		t.Errorf("exit %d, %s; want the engine to name the device", r.Exit, r.Stderr)
	}
}

func TestNoAgentNoStart(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		if err := w.stopAgent(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r := w.run(t, "reader", ec2.NetworkNone)
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		refused(t, r, "agent-unreachable", "agent")
	})
}

// TestKilledAgentFailsClosed: on a bridge, where the host's own IMDS is one route away.
func TestKilledAgentFailsClosed(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader"})
		if err := w.stopAgent(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		metadata := w.exec(t, id, "get", "-timeout=3s", "http://169.254.169.254/latest/meta-data/iam/security-credentials/")
		identity := w.exec(t, id, "identity")
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		if metadata.Exit == 0 || !strings.Contains(string(metadata.Stderr), "refused") || metadata.Elapsed > 2*time.Second {
			t.Errorf("IMDS without an agent: exit %d after %v, %s%s; want it refused at once",
				metadata.Exit, metadata.Elapsed, metadata.Stdout, metadata.Stderr)
		}
		if who := whoAmI(t, identity); who.ARN != "" {
			t.Errorf("without an agent the container is %q, want nobody", who.ARN)
		}
		// The new agent finds the container again.
		eventually(t, func() error {
			if l := w.attached(t); len(l) != 1 {
				return fmt.Errorf("%d containers are attached after the agent's return, want 1", len(l))
			}
			return nil
		})
		wantRole(t, w.exec(t, id, "identity"), cloud.TaskReader)
	})
}

func TestSecondHookCallChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader"})
		before, sockets := w.attached(t), w.listeners(t, id)
		if code, words := w.hook(t, "reader", w.state(t, id)); code != 0 {
			t.Fatalf("exit %d, %s", code, words)
		}
		after := w.attached(t)
		if len(before) != 1 || len(after) != 1 || before[0].Session != after[0].Session || !before[0].Since.Equal(after[0].Since) {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if n := w.listeners(t, id); n != sockets || n != 1 {
			t.Errorf("%d listeners in the container, before the second call %d, want 1", n, sockets)
		}
		// The same container with another role is no second call: it is refused.
		if code, words := w.hook(t, "writer", w.state(t, id)); code == 0 {
			t.Errorf("a second role was given to the container: %s", words)
		}
		wantRole(t, w.exec(t, id, "identity"), cloud.TaskReader)
	})
}

// listeners counts the TCP listeners in a container's network namespace.
func (w *world) listeners(tb testing.TB, id string) int {
	tb.Helper()
	n := 0
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", w.pid(tb, id), table))
		if err != nil {
			tb.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" { // TCP_LISTEN
				n++
			}
		}
	}
	return n
}

func TestEndOfContainersLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.run(t, "reader", ec2.NetworkNone) // what the agent opens once and keeps
		eventually(t, func() error { return w.idle(t) })
		files, namespaces := w.open(t, ""), w.open(t, "net:[")
		for range 3 {
			w.run(t, "reader", ec2.NetworkBridge)
			w.run(t, "writer", ec2.NetworkNone)
		}
		id := w.live(t, ec2.Container{Role: "reader"})
		w.must(t, "kill", id)
		eventually(t, func() error {
			if err := w.idle(t); err != nil {
				return err
			}
			// Connections to the engine and to STS come and go: a few more, or less, are no leak of seven containers.
			if n := w.open(t, "net:["); n > namespaces {
				return fmt.Errorf("%d network namespaces are open, before %d", n, namespaces)
			}
			if n := w.open(t, ""); n > files+3 {
				return fmt.Errorf("%d files are open, before %d", n, files)
			}
			if n := w.open(t, "pidfd"); n > 0 {
				return fmt.Errorf("%d pidfds are open", n)
			}
			return nil
		})
	})
}

func (w *world) idle(tb testing.TB) error {
	tb.Helper()
	if l := w.attached(tb); len(l) > 0 {
		return fmt.Errorf("still attached: %+v", l)
	}
	return nil
}

// open counts the agent's descriptors of things whose name has the word.
func (w *world) open(tb testing.TB, word string) int {
	tb.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", w.agent.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.Contains(target, word) {
			n++
		}
	}
	return n
}

func TestForgedStateIsRefused(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		state string
		code  string
	}{
		"empty":      {"", "request-invalid"},
		"not_json":   {"\x00\xff\x00 docker", "request-invalid"},
		"truncated":  {`{"ociVersion":"1.0.2","id":"abc`, "request-invalid"},
		"huge":       {`{"id":"` + strings.Repeat("a", 8<<20) + `"}`, "request-invalid"},
		"bad_id":     {`{"ociVersion":"1.0.2","id":"../../etc","status":"created","pid":1,"bundle":"/"}`, "request-invalid"},
		"dead_pid":   {fmt.Sprintf(`{"ociVersion":"1.0.2","id":"abc","status":"created","pid":%d,"bundle":"/"}`, dead.Process.Pid), "container-gone"},
		"no_pid":     {`{"ociVersion":"1.0.2","id":"abc","status":"created","bundle":"/"}`, "request-invalid"},
		"host_as_it": {fmt.Sprintf(`{"ociVersion":"1.0.2","id":"abc","status":"created","pid":%d,"bundle":"/"}`, w.agent.Process.Pid), "host-network"},
	} {
		t.Run(name, func(t *testing.T) {
			code, words := w.hook(t, "reader", []byte(c.state))
			if code == 0 || !strings.Contains(words, "["+c.code+"]") || strings.Count(words, "\n") != 1 {
				t.Errorf("exit %d, %q; want one line with [%s]", code, words, c.code)
			}
			if err := w.idle(t); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConfigurationWithProblemsEndsWith2AndNamesThemAll(t *testing.T) {
	file := t.TempDir() + "/config.yaml"
	if err := os.WriteFile(file, []byte("account: 12\nrolls: {}\nroles:\n  reader: {duration: 1s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin("taskrole"), "agent", "--config", file)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr = []string{"PATH=/usr/bin:/bin", "AWS_EC2_METADATA_DISABLED=true"}, &stderr
	_ = cmd.Run() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit %d, want 2", code)
	}
	for _, want := range []string{file + ":1:10", file + ":2:1", "allow", "duration"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("the problems lack %q:\n%s", want, stderr.String())
		}
	}
}

// rewrite replaces the configuration file for the length of a test.
func (w *world) rewrite(tb testing.TB, text string) {
	tb.Helper()
	if err := os.WriteFile(w.configPath(), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.WriteFile(w.configPath(), []byte(w.config()), 0o600); err != nil {
			tb.Error(err)
		}
		before := len(w.log())
		w.reload(tb)
		for n := 0; n < 200 && !strings.Contains(w.log()[before:], "reloaded"); n++ {
			time.Sleep(10 * time.Millisecond)
		}
	})
}
