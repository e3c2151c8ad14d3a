package setup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/fault"
	"taskrole/internal/setup"
)

// tree is a root file system to set up, and the programs to put there.
type tree struct {
	t *testing.T
	setup.Options
	commands []string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	w := &tree{t: t, Options: setup.Options{
		Root: t.TempDir(), BinDir: "/usr/local/bin", Programs: t.TempDir(),
		Extra: []setup.File{{Path: "share/man/man1/taskrole.1", Data: []byte("manual")}},
	}}
	for _, name := range []string{"taskrole", "taskrole-agent", "taskrole-runtime"} {
		w.program(name, "\x00first")
	}
	return w
}

func (w *tree) program(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.Programs, name), []byte(text), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tree) write(path, text string, mode fs.FileMode) {
	w.t.Helper()
	full := filepath.Join(w.Root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), mode); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(full, mode); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tree) read(path string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.Root, path))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// snapshot is every file and directory, with modes, owners and contents.
func (w *tree) snapshot() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(w.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			text += fmt.Sprintf(" %d:%d", s.Uid, s.Gid)
		}
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		all[strings.TrimPrefix(path, w.Root)] = text
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// host makes the tree count as this host's, with a systemd that notes what it is told.
func (w *tree) host() *tree {
	w.Host = true
	w.Command = func(_ context.Context, words ...string) error {
		w.commands = append(w.commands, strings.Join(words, " "))
		return nil
	}
	return w
}

func (w *tree) do(p *setup.Plan, err error) *setup.Plan {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.Apply(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *tree) install() *setup.Plan { w.t.Helper(); return w.do(setup.Install(w.Options)) }
func (w *tree) remove() *setup.Plan {
	w.t.Helper()
	return w.do(setup.Remove(w.t.Context(), w.Options))
}

const existing = "{\r\n\t\"log-driver\" : \"journald\",\r\n\t\"runtimes\": { \"crun\": {\"path\":\"/usr/bin/crun\"} }, \"x\": 1e400\r\n}"

func TestWayBackLeadsToTheSameBytes(t *testing.T) {
	for name, prepare := range map[string]func(*tree){
		"an empty tree": func(*tree) {},
		"a daemon.json": func(w *tree) { w.write("/etc/docker/daemon.json", existing, 0o600) },
		"an empty one":  func(w *tree) { w.write("/etc/docker/daemon.json", "\n", 0o644) },
		"a directory":   func(w *tree) { w.write("/etc/cdi/nvidia.json", "{}", 0o644) },
		"own files": func(w *tree) {
			w.write("/etc/taskrole/config.yaml", "mine", 0o640)
			w.write("/usr/local/bin/taskrole", "\x00old", 0o555)
		},
		"a unit by hand": func(w *tree) { w.write("/etc/systemd/system/taskrole.service", "[Unit]\n", 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTree(t)
			prepare(w)
			before := w.snapshot()
			if _, err := setup.Install(w.Options); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, w.snapshot()); d != "" {
				t.Errorf("the plan alone changed (-before +after):\n%s", d)
			}
			w.install()
			set := w.snapshot()
			if p := w.install(); p.Changes() {
				t.Errorf("a second setup would change: %+v", p.Steps)
			}
			if d := cmp.Diff(set, w.snapshot()); d != "" {
				t.Errorf("a second setup changed:\n%s", d)
			}
			w.program("taskrole", "\x00second") // a newer release, with the programs elsewhere
			w.BinDir = "/opt/bin"
			w.install()
			if got := w.read("/opt/bin/taskrole"); got != "\x00second" {
				t.Errorf("the program is %q after the update", got)
			}
			if !strings.Contains(w.read("/etc/docker/daemon.json"), "/opt/bin/taskrole-runtime") {
				t.Errorf("daemon.json = %s", w.read("/etc/docker/daemon.json"))
			}
			w.remove()
			if d := cmp.Diff(before, w.snapshot()); d != "" {
				t.Errorf("setup and --remove changed (-before +after):\n%s", d)
			}
			if p := w.remove(); p.Changes() {
				t.Errorf("a second --remove would change: %+v", p.Steps)
			}
		})
	}
}

func TestDaemonJSONKeepsAllElse(t *testing.T) {
	w := newTree(t)
	w.write("/etc/docker/daemon.json", existing, 0o600)
	w.install()
	want := strings.Replace(existing, `"/usr/bin/crun"} }`, `"/usr/bin/crun"}, "taskrole": {"path": "/usr/local/bin/taskrole-runtime"} }`, 1)
	// Its neighbour has no white space in front, and neither has ours but for the brace's.
	if got := w.read("/etc/docker/daemon.json"); got != want {
		t.Errorf("daemon.json = %q\nwant %q", got, want)
	}
	info, err := os.Stat(filepath.Join(w.Root, "/etc/docker/daemon.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want what it had", info.Mode(), err)
	}
}

func TestWhatSomebodyChangedSinceStays(t *testing.T) {
	w := newTree(t)
	w.write("/etc/docker/daemon.json", `{"debug": false}`, 0o644)
	w.install()
	w.write("/etc/docker/daemon.json", "{\n  \"debug\": true,\n  \"runtimes\": {\n    \"taskrole\": {\n      \"path\": \"/usr/local/bin/taskrole-runtime\"\n    },\n    \"new\": {\"path\": \"/x\"}\n  }\n}\n", 0o644)
	w.write("/etc/systemd/system/taskrole.service", "[Unit]\nDescription=mine\n", 0o644)
	w.write("/etc/taskrole/config.yaml", "roles: mine", 0o600)
	p := w.remove()
	if got, want := w.read("/etc/docker/daemon.json"), "{\n  \"debug\": true,\n  \"runtimes\": {\n    \"new\": {\"path\": \"/x\"}\n  }\n}\n"; got != want {
		t.Errorf("daemon.json = %q, want %q", got, want)
	}
	for _, path := range []string{"/etc/systemd/system/taskrole.service", "/etc/taskrole/config.yaml"} {
		_ = w.read(path)
		if !slices.ContainsFunc(p.Steps, func(s setup.Step) bool { return s.Verb == "keep" && s.What == path && s.Note != "" }) {
			t.Errorf("nobody is told that %s stays", path)
		}
	}
	if _, err := os.Stat(filepath.Join(w.Root, "/usr/local/bin/taskrole")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the program is still there: %v", err)
	}
}

func TestUnfitThingsAreRefusedAndNothingIsChanged(t *testing.T) {
	const daemon = "/etc/docker/daemon.json"
	for name, c := range map[string]struct {
		prepare func(*tree)
		code    fault.Code
	}{
		"no JSON":           {func(w *tree) { w.write(daemon, `{"debug": true,}`, 0o644) }, fault.DaemonConfigInvalid},
		"comments":          {func(w *tree) { w.write(daemon, "{} // mine", 0o644) }, fault.DaemonConfigInvalid},
		"a list":            {func(w *tree) { w.write(daemon, `[]`, 0o644) }, fault.DaemonConfigInvalid},
		"huge":              {func(w *tree) { w.write(daemon, `{"a":"`+strings.Repeat("x", 2<<20)+`"}`, 0o644) }, fault.DaemonConfigInvalid},
		"deep":              {func(w *tree) { w.write(daemon, `{"a":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}`, 0o644) }, fault.DaemonConfigInvalid},
		"twice":             {func(w *tree) { w.write(daemon, `{"runtimes":{},"runtimes":{}}`, 0o644) }, fault.DaemonConfigInvalid},
		"another case":      {func(w *tree) { w.write(daemon, `{"Runtimes":{}}`, 0o644) }, fault.DaemonConfigInvalid},
		"runtimes a list":   {func(w *tree) { w.write(daemon, `{"runtimes":[]}`, 0o644) }, fault.DaemonConfigInvalid},
		"runtime a string":  {func(w *tree) { w.write(daemon, `{"runtimes":{"taskrole":"x"}}`, 0o644) }, fault.DaemonConfigInvalid},
		"path a number":     {func(w *tree) { w.write(daemon, `{"runtimes":{"taskrole":{"path":1}}}`, 0o644) }, fault.DaemonConfigInvalid},
		"features a string": {func(w *tree) { w.write(daemon, `{"features":"cdi"}`, 0o644) }, fault.DaemonConfigInvalid},
		"cdi a string":      {func(w *tree) { w.write(daemon, `{"features":{"cdi":"true"}}`, 0o644) }, fault.DaemonConfigInvalid},
		"another program":   {func(w *tree) { w.write(daemon, `{"runtimes":{"taskrole":{"path":"/opt/other"}}}`, 0o644) }, fault.SetupConflict},
		"a containerd shim": {func(w *tree) { w.write(daemon, `{"runtimes":{"taskrole":{"runtimeType":"io.x.v1"}}}`, 0o644) }, fault.SetupConflict},
		"a directory":       {func(w *tree) { w.write(daemon+"/x", "", 0o644) }, fault.SetupConflict},
		"a file instead":    {func(w *tree) { w.write("/etc/docker", "", 0o644) }, fault.SetupConflict},
		"a symbolic link": {func(w *tree) {
			w.write("/etc/docker/real.json", "{}", 0o644)
			_ = os.Symlink("real.json", filepath.Join(w.Root, daemon))
		}, fault.SetupConflict},
		"a link out of the tree": {func(w *tree) {
			w.write("/etc/x", "", 0o644)
			_ = os.Symlink(w.Programs, filepath.Join(w.Root, "/etc/docker"))
		}, fault.SetupConflict},
		"a link for the unit": {func(w *tree) {
			w.write("/etc/systemd/system/x", "", 0o644)
			_ = os.Symlink("/dev/null", filepath.Join(w.Root, "/etc/systemd/system/taskrole.service")) // masked
		}, fault.SetupConflict},
		"state of another release": {func(w *tree) { w.write("/var/lib/taskrole/setup/state.json", `{"version": 2}`, 0o600) }, fault.SetupConflict},
		"broken state":             {func(w *tree) { w.write("/var/lib/taskrole/setup/state.json", `{`, 0o600) }, fault.SetupConflict},
		"no program":               {func(w *tree) { _ = os.Remove(filepath.Join(w.Programs, "taskrole-agent")) }, fault.ProgramMissing},
		"a relative bin-dir":       {func(w *tree) { w.BinDir = "bin" }, fault.Usage},
		"a bin-dir for a shell":    {func(w *tree) { w.BinDir = "/opt/a b" }, fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTree(t)
			w.CDI = true
			c.prepare(w)
			before := w.snapshot()
			_, err := setup.Install(w.Options)
			if f := fault.As(err); err == nil || f.Code != c.code || f.Hint == "" {
				t.Errorf("Install = %v, want %s with a hint", err, c.code)
			}
			if d := cmp.Diff(before, w.snapshot()); d != "" {
				t.Errorf("it changed:\n%s", d)
			}
		})
	}
}

func TestRemoveRefusesADaemonJSONItCannotRead(t *testing.T) {
	w := newTree(t)
	w.install()
	w.write("/etc/docker/daemon.json", "{", 0o644)
	before := w.snapshot()
	if _, err := setup.Remove(t.Context(), w.Options); fault.CodeOf(err) != fault.DaemonConfigInvalid {
		t.Errorf("Remove = %v", err)
	}
	if d := cmp.Diff(before, w.snapshot()); d != "" {
		t.Errorf("it changed:\n%s", d)
	}
}

// A container that was made with our runtime does not start when Docker does not know the name; so the name stays
// until no container has it, and then the file becomes what it was.
func TestNameOfTheRuntimeStaysWhileContainersHaveIt(t *testing.T) {
	const before = "{\n  \"debug\": true\n}\n"
	aliased := "{\n  \"debug\": true,\n  \"runtimes\": {\"taskrole\": {\"path\": \"runc\"}}\n}\n"
	unreachable := fault.New(fault.EngineUnreachable, "silence", "")
	for name, c := range map[string]struct {
		names []string
		err   error
		disk  bool   // Docker's directory has a container
		since string // daemon.json as somebody made it after setup
		after string
		note  string
	}{
		"a container":             {names: []string{"web"}, after: aliased, note: "a container names it: web"},
		"many":                    {names: []string{"a", "b", "c", "d"}, after: aliased, note: "4 containers name it: a, b, c and others"},
		"nobody":                  {after: before},
		"silence, and containers": {err: unreachable, disk: true, after: aliased, note: "Docker does not say"},
		"silence, and none":       {err: unreachable, after: before},
		"default-runtime names it": {
			since: `{"default-runtime": "taskrole", "runtimes": {"taskrole": {"path": "/usr/local/bin/taskrole-runtime"}}}`,
			after: `{"default-runtime": "taskrole","runtimes": {"taskrole": {"path": "runc"}}}`, note: "default-runtime names it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTree(t).host()
			w.write("/etc/docker/daemon.json", before, 0o644)
			if c.disk {
				w.write("/var/lib/docker/containers/c0ffee/config.v2.json", "", 0o600)
			}
			w.ByRuntime = func(_ context.Context, runtime string) ([]string, error) {
				if runtime != "taskrole" {
					t.Errorf("asked for %q", runtime)
				}
				return c.names, c.err
			}
			w.install()
			if c.since != "" {
				w.write("/etc/docker/daemon.json", c.since, 0o644)
			}
			p := w.remove()
			if got := w.read("/etc/docker/daemon.json"); got != c.after {
				t.Errorf("daemon.json = %q, want %q", got, c.after)
			}
			if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, c.note) || c.note == "" && strings.Contains(notes, "runc") {
				t.Errorf("notes = %q, want %q", notes, c.note)
			}
			if p := w.remove(); c.note != "" && len(p.Notes) == 0 {
				t.Error("a second --remove says nothing of what is left")
			}
			w.ByRuntime = nil
			if c.since != "" {
				w.write("/etc/docker/daemon.json", strings.Replace(c.after, `"default-runtime": "taskrole",`, "", 1), 0o644)
			}
			w.remove()
			want := before
			if c.since != "" {
				want = "{}"
			}
			if got := w.read("/etc/docker/daemon.json"); got != want {
				t.Errorf("in the end daemon.json = %q, want %q", got, want)
			}
			if _, err := os.Stat(filepath.Join(w.Root, "/var/lib/taskrole")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the state of setup is still there: %v", err)
			}
		})
	}
}

func TestDockerIsLeftAloneUnlessToldOtherwise(t *testing.T) {
	w := newTree(t).host()
	p := w.install()
	if slices.ContainsFunc(w.commands, func(c string) bool { return strings.Contains(c, "docker") }) {
		t.Errorf("commands = %q", w.commands)
	}
	if !strings.Contains(strings.Join(p.Notes, "\n"), "systemctl reload docker") {
		t.Errorf("notes = %q, want to hear what Docker needs", p.Notes)
	}
	for _, c := range []struct {
		cdi  bool
		want string
	}{{false, "systemctl try-reload-or-restart docker"}, {true, "systemctl try-restart docker"}} {
		w := newTree(t).host()
		w.RestartDocker, w.CDI = true, c.cdi
		w.install()
		if !slices.Contains(w.commands, c.want) {
			t.Errorf("cdi %t: commands = %q, want %s", c.cdi, w.commands, c.want)
		}
		if c.cdi && !strings.Contains(w.read("/etc/docker/daemon.json"), `"features": {"cdi": true}`) {
			t.Errorf("daemon.json = %s", w.read("/etc/docker/daemon.json"))
		}
	}
}

func TestTheAgentStartsOnceItHasAConfiguration(t *testing.T) {
	w := newTree(t).host()
	p := w.install()
	if want := []string{"systemctl daemon-reload", "systemctl enable taskrole.service"}; !slices.Equal(w.commands, want) {
		t.Errorf("commands = %q, want %q", w.commands, want)
	}
	if !strings.Contains(strings.Join(p.Notes, "\n"), "/etc/taskrole/config.yaml") {
		t.Errorf("notes = %q, want to hear of the configuration", p.Notes)
	}
	w.write("/etc/taskrole/config.yaml", "account: 123456789012\nroles: {r: {allow: [{any: true}]}}\n", 0o644)
	w.program("taskrole", "\x00second")
	w.commands = nil
	w.install()
	if !slices.Contains(w.commands, "systemctl restart taskrole.service") {
		t.Errorf("commands = %q, want a restart with the new program", w.commands)
	}
	w.commands = nil
	w.install()
	if len(w.commands) > 0 {
		t.Errorf("commands = %q though nothing changed", w.commands)
	}
	w.write("/etc/cdi/taskrole.json", "{}", 0o644)
	w.write("/run/taskrole/imds-token.key", "x", 0o600)
	cleared := false
	w.Clear = func(context.Context) error { cleared = true; return nil }
	w.remove()
	if len(w.commands) == 0 || w.commands[0] != "systemctl disable --now taskrole.service" || w.commands[1] != "systemctl daemon-reload" || !cleared {
		t.Errorf("commands = %q, cleared %t", w.commands, cleared)
	}
	for _, path := range []string{"/etc/cdi", "/run/taskrole"} {
		if _, err := os.Stat(filepath.Join(w.Root, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestAnotherRootRunsNoCommand(t *testing.T) {
	w := newTree(t)
	w.RestartDocker = true
	p := w.install()
	if slices.ContainsFunc(p.Steps, func(s setup.Step) bool { return s.Verb == "run" }) {
		t.Errorf("steps = %+v", p.Steps)
	}
}

func TestAFailureStopsAndTheNextRunGoesOn(t *testing.T) {
	w := newTree(t).host()
	w.write("/etc/taskrole/config.yaml", "account: 123456789012\nroles: {r: {allow: [{any: true}]}}\n", 0o644)
	before := w.snapshot()
	w.Command = func(context.Context, ...string) error { return errors.New("no bus") }
	p, err := setup.Install(w.Options)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "run systemctl daemon-reload: no bus") {
		t.Errorf("Apply = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err = setup.Remove(t.Context(), w.Options); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v after an interrupt", err)
	}
	w.host().remove()
	if d := cmp.Diff(before, w.snapshot()); d != "" {
		t.Errorf("in the end (-before +after):\n%s", d)
	}
}
