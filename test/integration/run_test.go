//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// atEngine runs a program where the engine is: in its root file system, with its own docker.
func (w *world) atEngine(tb testing.TB, words ...string) (stdout, stderr string, exit int) {
	tb.Helper()
	mounts := filepath.Join(filepath.Dir(w.docker.Root()), "ns/mnt")
	return w.onHost(tb, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, append([]string{"nsenter", "--mount=" + mounts, "--", "env", "--chdir=/"}, words...)...)
}

// shared is a copy of a configuration that is also seen where the engine is.
func (w *world) shared(tb testing.TB, text string) string {
	tb.Helper()
	f, err := os.CreateTemp(filepath.Join(w.dir, "run"), "config-*.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	tb.Cleanup(func() { _ = os.Remove(f.Name()) })
	if _, err := f.WriteString(text); err != nil {
		tb.Fatal(err)
	}
	return f.Name()
}

// ours are the words of taskrole run up to the role.
func ours(config, role string) []string {
	return []string{bin("taskrole"), "run", "-v", "--config", config, role}
}

// plain are arguments of docker run for a container of the probe that ends.
func (w *world) plain(more ...string) []string {
	words := []string{"--rm", "--pull=never", "--network=none"}
	for _, kv := range w.environment() {
		words = append(words, "-e", kv)
	}
	return append(append(words, more...), "probe")
}

func TestRunTakesTheBestWayIn(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		config := w.shared(t, w.config())
		out, said, exit := w.atEngine(t, append(ours(config, "reader"), w.plain()...)...)
		who := whoAmI(t, ec2.Result{Exit: exit, Stdout: []byte(out), Stderr: []byte(said)})
		if !strings.Contains(who.ARN, ":assumed-role/"+cloud.TaskReader+"/reader-") {
			t.Errorf("the container is %q (%s)", who.ARN, who.Errors.First())
		}
		want := map[container.Way]string{container.WayCDI: "way in: CDI device (--device=taskrole/role=reader)", container.WayShim: "way in: runtime (--runtime=taskrole)"}[w.way]
		if !strings.Contains(said, want) {
			t.Errorf("stderr is %q, want %q", said, want)
		}
	})
}

func TestRunByPodman(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		config := w.shared(t, w.config())
		words := append([]string{bin("taskrole"), "run", "-v", "--config", config, "--engine", "podman", "reader"}, w.plain("--cgroup-parent=/"+w.docker.Cgroup()+"/c")...)
		out, said, exit := w.atEngine(t, words...)
		who := whoAmI(t, ec2.Result{Exit: exit, Stdout: []byte(out), Stderr: []byte(said)})
		if !strings.Contains(who.ARN, ":assumed-role/"+cloud.TaskReader+"/reader-") || !strings.Contains(said, "way in: CDI device") {
			t.Errorf("the container is %q (%s), stderr %q", who.ARN, who.Errors.First(), said)
		}
	})
}

func TestRunRefusesBeforeAnythingStarts(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		config := w.shared(t, w.config())
		before := w.must(t, "ps", "--all", "--quiet", "--no-trunc")
		for name, c := range map[string]struct {
			words []string
			said  string
		}{
			"unknown role":  {append(ours(config, "raeder"), w.plain()...), "did you mean reader?"},
			"another role":  {append(ours(config, "reader"), w.plain("-e", "TASKROLE=writer")...), "[arguments-contradict]"},
			"keys":          {append(ours(config, "reader"), w.plain("-e", "AWS_SECRET_ACCESS_KEY=x")...), "[arguments-contradict]"},
			"engine away":   {append([]string{"env", "DOCKER_HOST=unix:///nowhere"}, append(ours(config, "reader"), w.plain()...)...), "[engine-unreachable]"},
			"not installed": {append([]string{"env", "PATH=/nowhere"}, append(ours(config, "reader"), w.plain()...)...), "[engine-missing]"},
			"no such agent": {append(ours("/nowhere.yaml", "reader"), w.plain()...), "[agent-unreachable]"},
		} {
			if out, said, exit := w.atEngine(t, c.words...); exit != 125 || out != "" || !strings.Contains(said, c.said) {
				t.Errorf("%s: exit %d, %s%s, want 125 and %s", name, exit, out, said, c.said)
			}
		}
		if after := w.must(t, "ps", "--all", "--quiet", "--no-trunc"); after != before {
			t.Errorf("containers before: %q, after: %q", before, after)
		}
	})
}

func TestRunPassesTheAgentsRefusalOn(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		config := w.shared(t, w.config())
		for role, code := range map[string]string{"keeper": "role-not-allowed", "untrusted": "sts-denied"} {
			if out, said, exit := w.atEngine(t, append(ours(config, role), w.plain()...)...); exit == 0 || out != "" || !strings.Contains(said, "["+code+"]") {
				t.Errorf("%s: exit %d, %s%s", role, exit, out, said)
			}
		}
	})
}

// TestRunIsDockerRun: input, exit status, output and the arguments behind the image are docker's.
func TestRunIsDockerRun(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.importTree(t, "awscli", tree("client"))
	config := w.shared(t, w.config())
	words := append(ours(config, "reader"), "-i", "--rm", "--pull=never", "--network=none", "awscli", "sh", "-c", `cat; echo "$0" >&2; exit 7`, "--label=taskrole=other")
	script := fmt.Sprintf("printf typed | '%s'", strings.Join(words, "' '"))
	out, said, exit := w.atEngine(t, "sh", "-c", script)
	if exit != 7 || out != "typed" || !strings.Contains(said, "--label=taskrole=other\n") {
		t.Errorf("exit %d, stdout %q, stderr %q", exit, out, said)
	}
}

// unattended is the instance without an agent, and without what one leaves. The end of the test brings the agent back.
func (w *world) unattended(tb testing.TB) (config string) {
	tb.Helper()
	config = w.shared(tb, w.config())
	if err := w.stopAgent(syscall.SIGTERM); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if err := w.startAgent(ctx); err != nil {
			tb.Errorf("start the agent again: %v", err)
		}
	})
	for _, name := range []string{"cdi/taskrole.json", "run/imds-token.key"} {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return config
}

// nothingLeft waits until what a companion of config brought is gone.
func (w *world) nothingLeft(t *testing.T, config string) {
	t.Helper()
	eventually(t, func() error {
		for _, name := range []string{"cdi/taskrole.json", "run/imds-token.key", "run/run.lock", "run/agent.sock"} {
			if _, err := os.Lstat(filepath.Join(w.dir, name)); err == nil {
				return fmt.Errorf("%s is left", name)
			}
		}
		return noCompanion(config)
	})
}

// noCompanion looks for processes.
func noCompanion(config string) error {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if words, err := os.ReadFile(file); err == nil && bytes.Contains(words, []byte("taskrole\x00companion\x00")) && bytes.Contains(words, []byte(config)) {
			return fmt.Errorf("%s is left: %q", file, words)
		}
	}
	return err
}

func TestRunWithoutAnAgent(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		config := w.unattended(t)
		if _, said, exit := w.atEngine(t, append(ours(config, "reader"), w.plain("--restart=always")...)...); exit != 125 || !strings.Contains(said, "[arguments-contradict]") {
			t.Errorf("a container that comes back: exit %d, %s", exit, said)
		}
		if _, said, exit := w.atEngine(t, append(ours(config, "raeder"), w.plain()...)...); exit != 125 || !strings.Contains(said, "did you mean reader?") {
			t.Errorf("unknown role: exit %d, %s", exit, said)
		}
		w.nothingLeft(t, config)
		out, said, exit := w.atEngine(t, append(ours(config, "reader"), w.plain()...)...)
		who := whoAmI(t, ec2.Result{Exit: exit, Stdout: []byte(out), Stderr: []byte(said)})
		if !strings.Contains(who.ARN, ":assumed-role/"+cloud.TaskReader+"/reader-") || !strings.Contains(said, "no agent runs: one of its own is kept") {
			t.Errorf("the container is %q (%s), %s", who.ARN, who.Errors.First(), said)
		}
		w.nothingLeft(t, config)
		// Ctrl-C, as early or late as it comes.
		if _, said, exit := w.atEngine(t, append(append([]string{"timeout", "--signal=INT", "1.5"}, ours(config, "reader")...), append(w.plain(), "sleep", "2m")...)...); exit == 0 {
			t.Errorf("interrupted: exit %d, %s", exit, said)
		}
		w.nothingLeft(t, config)
		if out, said, exit := w.atEngine(t, append(ours(config, "keeper"), w.plain()...)...); exit == 0 || out != "" || !strings.Contains(said, "[role-not-allowed]") {
			t.Errorf("refused by policy: exit %d, %s%s", exit, out, said)
		}
		w.nothingLeft(t, config)
	})
}

// TestTwoRunsWithoutAnAgentShareOne: the second container finds the first one's agent, and keeps it.
func TestTwoRunsWithoutAnAgentShareOne(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		config := w.unattended(t)
		for _, name := range []string{"first", "second"} { // docker run -d ends at once, and its container stays
			if out, said, exit := w.atEngine(t, append(append(ours(config, "reader"), w.plain("--detach", "--name="+name)...), "sleep", "2m")...); exit != 0 {
				t.Fatalf("%s: exit %d, %s%s", name, exit, out, said)
			}
		}
		t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rm", "-f", "first", "second") })
		for _, gone := range []string{"first", "second"} {
			if l := w.attached(t); len(l) == 0 {
				t.Fatalf("before the end of %s nobody has a role", gone)
			}
			if r := w.exec(t, "second", "keys"); r.Exit != 0 || !strings.Contains(string(r.Stdout), "ASIA") {
				t.Errorf("the second container before the end of %s: exit %d, %s", gone, r.Exit, r.Stderr)
			}
			w.must(t, "rm", "-f", gone)
		}
		w.nothingLeft(t, config)
	})
}
