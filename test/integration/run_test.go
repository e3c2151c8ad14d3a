//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// atEngine runs a program where the engine is: in its root file system, with its own docker.
func (w *world) atEngine(tb testing.TB, words ...string) (stdout, stderr string, exit int) {
	tb.Helper()
	mounts := filepath.Join(filepath.Dir(w.docker.Root()), "ns/mnt")
	return w.onHost(tb, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, append([]string{"nsenter", "--mount=" + mounts, "--wd=/", "--"}, words...)...)
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
