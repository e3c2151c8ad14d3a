package agent_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/agent"
	"taskrole/internal/container"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

// edit changes members of a record while no agent runs.
func (w *world) edit(id container.ID, change func(record map[string]any)) {
	w.t.Helper()
	path := filepath.Join(w.dir, "containers", string(id)+".json")
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		w.t.Fatal(err)
	}
	change(record)
	if b, err = json.Marshal(record); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// A container that may do so enters another container's namespace, or the host's, and waits for a new agent.
func TestProcessThatChangedItsNamespaceIsNotAttachedAgain(t *testing.T) {
	w := newWorld(t)
	ns := actor.NewNS(t)
	a, honest := actor.Start(t, actor.NewNS(t), ""), actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	if _, err := w.attach("decade", "reader", honest, honest); err != nil {
		t.Fatal(err)
	}
	w.stop()
	elsewhere := actor.Start(t, ns, "")
	w.edit("c0ffee", func(r map[string]any) { // all of the record is right but the namespace
		r["pid"], r["start"] = elsewhere.PID(), startOf(t, elsewhere.PID())
	})
	w.start()
	w.eventually("both are settled", func() bool {
		return strings.Contains(w.log.String(), "container_id=c0ffee") && len(w.list()) > 0
	})
	if ids := w.list(); len(ids) != 1 || ids[0] != "decade" {
		t.Errorf("attached again: %v, want decade alone", ids)
	}
	if got := elsewhere.Do("get " + credentialsURL); strings.HasPrefix(got, "200") {
		t.Error("a process got the role in a namespace that the role was not given to")
	}
}

// startOf is field 22 of /proc/PID/stat; an actor's name has no parenthesis in it.
func startOf(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	start, err := strconv.ParseUint(strings.Fields(rest)[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return start
}

// systemd in a container does this to itself.
func TestContainerThatMovedBelowItsCgroupIsAttachedAgainWhole(t *testing.T) {
	w := newWorld(t)
	ns, own := actor.NewNS(t), actor.NewCgroup(t)
	a := actor.Start(t, ns, own)
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	w.stop()
	leaf := filepath.Join(own, "init.scope")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { actor.RemoveCgroup(t, leaf) })
	t.Cleanup(a.End)
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(a.PID())), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("attached again", func() bool { return len(w.list()) == 1 })
	sibling := actor.Start(t, ns, own)
	t.Cleanup(sibling.End)
	for name, p := range map[string]*actor.Actor{"first": a, "second": sibling} {
		if got := p.Do("get " + credentialsURL); !strings.HasPrefix(got, "200") {
			t.Errorf("the container's %s process: GET = %.80s", name, got)
		}
	}
	stranger := actor.Start(t, ns, actor.NewCgroup(t))
	t.Cleanup(stranger.End)
	if got := stranger.Do("get " + credentialsURL); !strings.HasPrefix(got, "404") {
		t.Errorf("a process outside the container: GET = %.80s", got)
	}
}

func TestHostileRecordsAreNotAttached(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	w.stop()
	dir := filepath.Join(w.dir, "containers")
	good, err := os.ReadFile(filepath.Join(dir, "c0ffee.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"another.json": string(good), "...json": string(good), "a b\n.json": "{}", "huge.json": strings.Repeat(" ", 1<<20), "cut.json": string(good[:9]),
		"list.json": "[]", "deep.json": strings.Repeat("[", 4000), "pid.json": `{"id":"pid","role":"reader","way":"cdi","pid":-1,"start":0}`,
	} {
		w.write(filepath.Join("containers", name), text)
	}
	if err := os.Mkdir(filepath.Join(dir, "directory.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("the good one is attached", func() bool { return len(w.list()) == 1 })
	if ids := w.list(); len(ids) != 1 || ids[0] != "c0ffee" {
		t.Errorf("attached: %v", ids)
	}
}

func TestRoleThatIsGoneIsNotGivenAgain(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	w.stop()
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", strings.Replace(string(text), "  reader:", "  renamed:", 1))
	w.start()
	w.eventually("the refusal", func() bool { return strings.Contains(w.log.String(), "role-unknown") })
	if got := a.Do("get " + credentialsURL); !strings.Contains(got, "refused") {
		t.Errorf("GET = %.80s, want refused: neither the old role nor the way to the host's", got)
	}
}

func TestAgentMakesItsDirectoriesOnAFreshHost(t *testing.T) {
	w := newWorld(t)
	w.stop()
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", strings.Replace(string(text), "/agent.sock", "/run/agent.sock", 1))
	w.start()
	for dir, want := range map[string]os.FileMode{"run": 0o755, "run/containers": 0o700} {
		if info, err := os.Stat(filepath.Join(w.dir, dir)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %s", dir, info, err, want)
		}
	}
}

// Whoever may write there hands the next agent records of his own processes, and stands in for the agent.
func TestStateDirectoryOfOthersIsRefused(t *testing.T) {
	testkit.Need(t, testkit.Root)
	const nobody = 65534
	for name, spoil := range map[string]func(run string) error{
		"owner":           func(run string) error { return os.Chown(run, nobody, nobody) },
		"writable":        func(run string) error { return os.Chmod(run, 0o777) },
		"group-writable":  func(run string) error { return os.Chmod(run, 0o775) },
		"sticky":          func(run string) error { return os.Chmod(run, 0o777|os.ModeSticky) },
		"records' owner":  func(run string) error { return os.Chown(filepath.Join(run, "containers"), nobody, nobody) },
		"records' mode":   func(run string) error { return os.Chmod(filepath.Join(run, "containers"), 0o722) },
		"records' a link": func(run string) error { return relink(filepath.Join(run, "containers")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.stop()
			if err := spoil(w.dir); err != nil {
				t.Fatal(err)
			}
			err := agent.Run(t.Context(), agent.Options{ConfigPath: w.config, Logger: slog.New(slog.DiscardHandler)})
			if err == nil || !strings.Contains(err.Error(), w.dir) {
				t.Errorf("Run = %v, want a refusal that names the directory", err)
			}
		})
	}
}

func relink(dir string) error {
	if err := os.Rename(dir, dir+".real"); err != nil {
		return err
	}
	return os.Symlink(dir+".real", dir)
}
