package ocirun_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"taskrole/internal/testkit"
	"taskrole/lab/engine/ocirun"
)

// TestMain is the runtime when it is called by the runtime's name, which is how the lab's program does it too.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == ocirun.Name {
		os.Exit(ocirun.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err) // the containers of these tests would be left to the machine's first process
	}
	os.Exit(m.Run())
}

// host is a runtime's surroundings: a place for state and bundles, and a cgroup of the test's own.
type host struct {
	t      *testing.T
	dir    string
	cgroup string
}

func newHost(t *testing.T) *host {
	t.Helper()
	testkit.Need(t, testkit.Root)
	h := &host{t: t, dir: t.TempDir()}
	if root := ocirun.CgroupRoot(); root != "" && testkit.Has(testkit.Cgroup2) {
		h.cgroup = "/" + filepath.Base(filepath.Dir(h.dir)) + "-" + filepath.Base(h.dir)
		if err := os.Mkdir(root+h.cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := ocirun.RemoveCgroup(h.cgroup); err != nil {
				t.Error(err)
			}
		})
	}
	return h
}

// bundle writes a bundle whose program is the machine's own shell.
func (h *host) bundle(script string, edit func(*specs.Spec)) string {
	h.t.Helper()
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "WORD=inside"}, Cwd: "/", NoNewPrivileges: true},
		Root:    &specs.Root{Path: "rootfs", Readonly: true}, Hostname: "box",
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace},
		}},
		Annotations: map[string]string{"a": "b"},
	}
	for _, dir := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(dir); err == nil {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Options: []string{"rbind", "ro"}})
		}
	}
	if h.cgroup != "" {
		s.Linux.CgroupsPath = h.cgroup + "/one"
	}
	if edit != nil {
		edit(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.raw(b)
}

func (h *host) raw(config []byte) string {
	h.t.Helper()
	dir := filepath.Join(h.t.TempDir(), "bundle")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// runc calls the runtime; output is what it and the container write until it returns.
func (h *host) runc(args ...string) (output string, err error) {
	h.t.Helper()
	out, err := os.OpenFile(filepath.Join(h.dir, "output"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(h.t.Context(), "/proc/self/exe", append([]string{"--root", h.dir + "/state", "--log", h.dir + "/log"}, args...)...)
	cmd.Args[0] = ocirun.Name
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	return h.output(), err
}

func (h *host) output() string {
	b, err := os.ReadFile(filepath.Join(h.dir, "output"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func (h *host) must(args ...string) {
	h.t.Helper()
	if out, err := h.runc(args...); err != nil {
		h.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (h *host) state(id string) specs.State {
	h.t.Helper()
	if err := os.Truncate(filepath.Join(h.dir, "output"), 0); err != nil {
		h.t.Fatal(err)
	}
	out, err := h.runc("state", id)
	var s specs.State
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		h.t.Fatalf("state: %v: %s", err, out)
	}
	return s
}

// reap waits for the container's first process, which is our child by now.
func (h *host) reap(pid int) int {
	h.t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := p.Wait()
	if err != nil {
		h.t.Fatal(err)
	}
	return s.ExitCode()
}

// clean fails the test if anything of a container is left.
func (h *host) clean() {
	h.t.Helper()
	if left, _ := filepath.Glob(h.dir + "/state/*"); len(left) > 0 {
		h.t.Errorf("state is left: %v", left)
	}
	if h.cgroup == "" {
		return
	}
	if _, err := os.Stat(ocirun.CgroupRoot() + h.cgroup + "/one"); err == nil {
		h.t.Error("the cgroup is left")
	}
}

func TestAContainerFromCreateToDelete(t *testing.T) {
	h := newHost(t)
	seen := filepath.Join(h.dir, "seen")
	bundle := h.bundle(`echo "pid $$ on $(cat /proc/sys/kernel/hostname) $WORD"; cat /proc/self/cgroup; touch /x || echo read-only; exit 7`, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
			Path: "/bin/sh", Args: []string{"hook", "-c", `cat > "$OUT"; echo "$0 ${HOME-none}" >> "$OUT"`}, Env: []string{"OUT=" + seen, "PATH=/usr/bin:/bin"},
		}}}
	})
	h.must("create", "--bundle", bundle, "--pid-file", h.dir+"/pid", "c1")
	s := h.state("c1")
	if s.Status != specs.StateCreated || s.Pid == 0 || s.Bundle != bundle || s.Annotations["a"] != "b" {
		t.Errorf("state after create: %+v", s)
	}
	b, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	var inHook specs.State
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&inHook); err != nil || inHook.Status != specs.StateCreating || inHook.Pid != s.Pid || inHook.ID != "c1" || inHook.Bundle != bundle {
		t.Errorf("the hook got %s (%v), want the state of pid %d", b, err, s.Pid)
	}
	if !strings.HasSuffix(string(b), "none\n") {
		t.Errorf("the hook has an environment that its entry does not name: %s", b)
	}
	if out, err := h.runc("delete", "c1"); err == nil {
		t.Errorf("a created container is deleted without --force: %s", out)
	}
	h.must("start", "c1")
	if code := h.reap(s.Pid); code != 7 {
		t.Errorf("exit status %d, want 7", code)
	}
	out := h.output()
	for _, want := range []string{"pid 1 on box inside", "read-only"} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	if h.cgroup != "" && !strings.Contains(out, h.cgroup+"/one") {
		t.Errorf("output %q: not in the cgroup %s/one", out, h.cgroup)
	}
	h.must("delete", "c1")
	h.clean()
}

func TestAFailingHookFailsTheCreateWithItsWordsAndLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"its_own_words": {`echo "this container may not" >&2; exit 3`, "this container may not"},
		"a_time_out":    {`sleep 60`, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			second := 1
			bundle := h.bundle("true", func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{
					{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", c.script}, Env: []string{"PATH=/usr/bin:/bin"}, Timeout: &second},
				}}
			})
			out, err := h.runc("create", "--bundle", bundle, "--pid-file", h.dir+"/pid", "c1")
			if err == nil || !strings.Contains(out, "error running createRuntime hook #1") || !strings.Contains(out, c.want) {
				t.Errorf("create: %v, %q", err, out)
			}
			log, _ := os.ReadFile(h.dir + "/log")
			var entry struct{ Level, Msg string }
			if err := json.Unmarshal(log, &entry); err != nil || entry.Level != "error" || !strings.Contains(entry.Msg, c.want) {
				t.Errorf("log %s: %v", log, err)
			}
			if _, err := os.Stat(h.dir + "/pid"); err == nil {
				t.Error("a pid file of a container that was not made")
			}
			h.clean()
		})
	}
}

func TestBundlesThatCannotBeRunAreRefusedAndLeaveNothing(t *testing.T) {
	h := newHost(t)
	good := h.bundle("true", nil)
	valid, err := os.ReadFile(good + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	spec := func(edit func(*specs.Spec)) string { return h.bundle("true", edit) }
	for name, c := range map[string]struct{ bundle, want string }{
		"missing":           {h.dir + "/nowhere", "no such file"},
		"not_json":          {h.raw([]byte("hello")), "decode config.json"},
		"truncated":         {h.raw(valid[:len(valid)/2]), "decode config.json"},
		"empty":             {h.raw(nil), "decode config.json"},
		"huge":              {h.raw(bytes.Repeat([]byte(" "), 5<<20)), "more than"},
		"no_process":        {spec(func(s *specs.Spec) { s.Process = nil }), "no process"},
		"no_arguments":      {spec(func(s *specs.Spec) { s.Process.Args = nil }), "no process"},
		"terminal":          {spec(func(s *specs.Spec) { s.Process.Terminal = true }), "terminals"},
		"no_root":           {spec(func(s *specs.Spec) { s.Root = nil }), "no root"},
		"no_linux":          {spec(func(s *specs.Spec) { s.Linux = nil }), "no linux"},
		"user_namespace":    {spec(func(s *specs.Spec) { s.Linux.Namespaces[0].Type = specs.UserNamespace }), "not supported"},
		"joined_namespace":  {spec(func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/net" }), "not supported"},
		"host_mounts":       {spec(func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] }), "mount and a pid namespace"},
		"cgroup_above":      {spec(func(s *specs.Spec) { s.Linux.CgroupsPath = "/../x" }), "clean absolute path"},
		"root_missing":      {spec(func(s *specs.Spec) { s.Root.Path = "nowhere" }), "bind root"},
		"mount_source_gone": {spec(func(s *specs.Spec) { s.Mounts[1].Source = "/nowhere" }), "mount"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(h.dir + "/output"); err != nil {
				t.Fatal(err)
			}
			out, err := h.runc("create", "--bundle", c.bundle, "c1")
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("create: %v, %q; want %q", err, out, c.want)
			}
			h.clean()
		})
	}
}

func TestCommandLinesThatAreRefused(t *testing.T) {
	for _, words := range []string{
		"", "create", "create a b", "start ../x", "start .", "delete /etc", "dance c1", "state nobody", "delete nobody", "--nonsense create c1", "create --nonsense c1",
	} {
		var out, errs bytes.Buffer
		if code := ocirun.Main(t.Context(), append([]string{"--root", t.TempDir()}, strings.Fields(words)...), &out, &errs); code == 0 || errs.Len() == 0 {
			t.Errorf("%q: status %d, %q", words, code, errs.String())
		}
	}
}

func TestForceDeleteEndsARunningContainer(t *testing.T) {
	h := newHost(t)
	h.must("create", "--bundle", h.bundle("sleep 60 & sleep 60", nil), "c1")
	if out, err := h.runc("create", "--bundle", h.bundle("true", nil), "c1"); err == nil || !strings.Contains(out, "exists already") {
		t.Errorf("a second container of the same id: %v, %q", err, out)
	}
	pid := h.state("c1").Pid
	h.must("start", "c1")
	if out, err := h.runc("start", "c1"); err == nil {
		t.Errorf("started twice: %q", out)
	}
	if s := h.state("c1"); s.Status != specs.StateRunning {
		t.Errorf("status %q, want running", s.Status)
	}
	began := time.Now()
	reaped := make(chan int, 1)
	go func() { reaped <- h.reap(pid) }()
	h.must("delete", "--force", "c1")
	if code := <-reaped; code != -1 {
		t.Errorf("exit status %d, want a death by signal", code)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
	h.must("delete", "--force", "c1") // nothing there is no error, as with runc
	h.clean()
}

func TestKillSendsTheSignal(t *testing.T) {
	h := newHost(t)
	h.must("create", "--bundle", h.bundle(`trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done`, nil), "c1")
	pid := h.state("c1").Pid
	h.must("start", "c1")
	for i := 0; !strings.Contains(h.output(), "ready"); i++ {
		if i > 500 {
			t.Fatal("the container does not get ready")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if out, err := h.runc("kill", "c1", "nonsense"); err == nil {
		t.Errorf("a signal called nonsense is sent: %q", out)
	}
	h.must("kill", "c1", "USR1")
	if code := h.reap(pid); code != 5 {
		t.Errorf("exit status %d, want 5", code)
	}
	h.must("delete", "c1")
	h.clean()
}

// A lab that is killed between create and start leaves nobody who would ever say start.
func TestAWaitingContainerEndsWithItsMaker(t *testing.T) {
	h := newHost(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runtime, pidFile := filepath.Join(h.dir, ocirun.Name), filepath.Join(h.dir, "pid")
	if err := os.Symlink(self, runtime); err != nil {
		t.Fatal(err)
	}
	maker := exec.CommandContext(t.Context(), "/bin/sh", "-c", `"$@" && kill -KILL $$`, "maker",
		runtime, "--root", h.dir+"/state", "create", "--pid-file", pidFile, "--bundle", h.bundle("exit 0", nil), "one")
	out, err := os.Create(filepath.Join(h.dir, "output")) // a pipe would be held open by what create leaves
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	maker.Stdout, maker.Stderr = out, out
	if err := maker.Run(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the maker was to create a container and die: %v: %s", err, h.output())
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(10*time.Second, func() { _ = unix.Kill(pid, unix.SIGKILL) })
	defer stop.Stop()
	if exit := h.reap(pid); exit != 1 {
		t.Errorf("the waiting process ended with %d, want by itself with 1: %s", exit, h.output())
	}
	h.must("delete", "--force", "one")
	h.clean()
}
