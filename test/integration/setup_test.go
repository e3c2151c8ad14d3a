//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// setUp runs taskrole setup on a tree, with the programs named where the engine sees them.
func setUp(t *testing.T, root string, args ...string) string {
	t.Helper()
	words := append([]string{"setup", "--yes", "--root", root, "--bin-dir", filepath.Dir(bin("taskrole"))}, args...)
	out, err := exec.CommandContext(t.Context(), bin("taskrole"), words...).CombinedOutput()
	if err != nil {
		t.Fatalf("taskrole %q: %v\n%s", words, err, out)
	}
	return string(out)
}

// The unit's bounding set is what the agent needs: with exactly these capabilities it attaches containers on every
// network, also those of other users, and takes them up again. internal/setup has what systemd says of the unit.
func TestAgentNeedsOnlyTheUnitsCapabilities(t *testing.T) {
	root := t.TempDir()
	setUp(t, root)
	unit, err := os.ReadFile(filepath.Join(root, "/etc/systemd/system/taskrole.service"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(CAP_[A-Z_ ]+)$`).FindSubmatch(unit)
	if m == nil {
		t.Fatalf("the unit has no bounding set:\n%s", unit)
	}
	set := "-all"
	for name := range strings.FieldsSeq(string(m[1])) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	onEach(t, func(t *testing.T, w *world) {
		restart := func(through ...string) {
			if err := w.stopAgent(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			w.through = through
			if err := w.startAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			w.through = nil
			if err := w.stopAgent(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := w.startAgent(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		before := w.live(t, ec2.Container{Role: "writer"})
		restart("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set="+set)
		for _, network := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkNone} {
			wantRole(t, w.run(t, "reader", network), cloud.TaskReader)
		}
		eventually(t, func() error {
			if r := w.exec(t, before, "identity"); !strings.Contains(string(r.Stdout), cloud.TaskWriter) {
				return fmt.Errorf("the container of the old agent is %s", r.Stdout)
			}
			return nil
		})
	})
}

// dockerConfig is the daemon.json of a private Docker, which a reload reads again.
type dockerConfig struct {
	w   *world
	dir string
}

func (d dockerConfig) path() string { return filepath.Join(d.dir, "daemon.json") }

func (d dockerConfig) read(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(d.path())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// reload writes the file, makes the daemon read it, and waits until it says that it has the runtime, or not.
func (d dockerConfig) reload(t *testing.T, text []byte, known bool) {
	t.Helper()
	if err := os.WriteFile(d.path(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(d.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil { // as systemctl reload docker does
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second) // also at the test's end
	defer cancel()
	err = poll(ctx, func() error {
		r, err := d.w.docker.Exec(ctx, "info", "--format={{range $name, $_ := .Runtimes}}{{$name}} {{end}}")
		if err == nil && slices.Contains(strings.Fields(string(r.Stdout)), "taskrole") != known {
			err = fmt.Errorf("docker's runtimes are %s", r.Stdout)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A real Docker reads the daemon.json that setup wrote, without a restart, and reads the one that --remove left.
func TestDockerTakesTheDaemonJSONThatSetupWrote(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		d := dockerConfig{w, filepath.Dir(strings.TrimPrefix(w.docker.Host(), "unix://"))}
		original := d.read(t)
		var members map[string]any
		if err := json.Unmarshal(original, &members); err != nil {
			t.Fatal(err)
		}
		// Without any runtimes a reload would leave those that Docker has.
		members["runtimes"] = map[string]any{"other": map[string]any{"path": "runc"}}
		plain, err := json.MarshalIndent(members, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.reload(t, original, true) })
		d.reload(t, plain, false)
		asked := ec2.Container{Role: "reader", Way: container.WayShim, Network: ec2.NetworkNone}
		if r := w.start(t, asked); r.Exit == 0 {
			t.Fatal("a container starts by a runtime that Docker does not know")
		}

		root := t.TempDir()
		inRoot := filepath.Join(root, "/etc/docker/daemon.json")
		if err := os.MkdirAll(filepath.Dir(inRoot), 0o755); err != nil {
			t.Fatal(err)
		}
		copyFile(t, d.path(), inRoot)
		setUp(t, root)
		merged, err := os.ReadFile(inRoot)
		if err != nil {
			t.Fatal(err)
		}
		d.reload(t, merged, true)
		wantRole(t, w.start(t, asked), cloud.TaskReader)
		kept := w.live(t, asked)
		w.must(t, "stop", "-t", "0", kept)

		// As the default, the name is in containers that nobody gave it: it stays, as another name of runc.
		defaulted := strings.Replace(string(merged), "{", `{"default-runtime": "taskrole",`, 1)
		if err := os.WriteFile(inRoot, []byte(defaulted), 0o600); err != nil {
			t.Fatal(err)
		}
		setUp(t, root, "--remove")
		left, err := os.ReadFile(inRoot)
		if err != nil {
			t.Fatal(err)
		}
		d.reload(t, left, true)
		w.must(t, "start", kept)
		if r := w.exec(t, kept, "env"); r.Exit != 0 {
			t.Errorf("the container does not run: %s", r.Stderr)
		}

		if err := os.WriteFile(inRoot, []byte(strings.Replace(string(left), `"default-runtime": "taskrole",`, "", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		setUp(t, root, "--remove")
		back, err := os.ReadFile(inRoot)
		if err != nil || string(back) != string(plain) {
			t.Errorf("daemon.json = %s, %v\nwant %s", back, err, plain)
		}
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
