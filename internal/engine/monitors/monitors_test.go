package monitors_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/engine/monitors"
	"taskrole/internal/testkit"
)

const id = "471858b5abd52552c766c3583344a47dad0b806e27e05a35766df3af8e9ff799"

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "conmon", "containerd-shim-runc-v2":
		watch()
		return
	case "child":
		os.Stdout.WriteString(strconv.Itoa(os.Getpid()) + "\n")
		os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// watch is a monitor: it starts a child and stays as long as that does.
func watch() {
	child := exec.Command("/proc/self/exe")
	child.Args = []string{"child"}
	child.Stdin, child.Stdout = os.Stdin, os.Stdout
	if child.Start() == nil {
		child.Wait()
	}
}

// monitor starts a monitor of that name and returns its child's number.
func monitor(t *testing.T, dir, name string, args ...string) int {
	t.Helper()
	return monitorIn(t, 0, dir, name, args...)
}

// monitorIn starts it in new namespaces, where it tells its child's number there.
func monitorIn(t *testing.T, namespaces uintptr, dir, name string, args ...string) int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GORACE=atexit_sleep_ms=0") // the race detector waits a second at the end
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	var pid int
	if _, err := fmt.Fscan(stdout, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// find is the container with that process.
func find(t *testing.T, pid int) (monitors.Container, bool) {
	t.Helper()
	all, err := monitors.Running(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.PID == pid {
			return c, true
		}
	}
	return monitors.Container{}, false
}

func TestConmon(t *testing.T) {
	pid := monitor(t, "", "conmon", "--api-version", "1", "-c", id, "-u", id, "-n", "web", "-b", "/nowhere")
	want := monitors.Container{ID: id, Name: "web", Engine: monitors.Podman, PID: pid, UID: os.Geteuid()}
	if got, _ := find(t, pid); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	pid = monitor(t, "", "conmon", "-c", id, "-n", "we\x1b[31mb")
	if got, ok := find(t, pid); !ok || got.Name != "" {
		t.Errorf("a name that is a command to terminals: %+v", got)
	}
	for _, args := range [][]string{{"-c", id, "-n", "web", "-e"}, {"-c", "../..", "-n", "web"}, {"-n", "web"}, {"-c"}} {
		if got, ok := find(t, monitor(t, "", "conmon", args...)); ok {
			t.Errorf("%q is no container's: %+v", args, got)
		}
	}
}

// TestMonitorsOfOtherMachines: in a container, or on another network, they say what they like.
func TestMonitorsOfOtherMachines(t *testing.T) {
	testkit.Need(t, testkit.Root)
	for name, namespace := range map[string]uintptr{"network": syscall.CLONE_NEWNET, "pid": syscall.CLONE_NEWPID} {
		id := strings.Repeat(string(name[0]), 20)
		monitorIn(t, namespace, "", "conmon", "-c", id, "-n", "web")
		all, err := monitors.Running(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if string(c.ID) == id {
				t.Errorf("in another %s namespace: %+v", name, c)
			}
		}
	}
}

// task is a directory of containerd's with one container in it.
func task(t *testing.T, id string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestShim(t *testing.T) {
	const namespaces = `"linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]}`
	for name, c := range map[string]struct {
		id, config string
		want       monitors.Container
	}{
		"ctr":     {"web", `{` + namespaces + `}`, monitors.Container{Name: "web"}},
		"host":    {"web", `{"linux": {"namespaces": [{"type": "pid"}]}}`, monitors.Container{Name: "web", HostNet: true}},
		"moby":    {id, `{` + namespaces + `}`, monitors.Container{}},
		"nerdctl": {id, `{"annotations": {"nerdctl/name": "web"}, ` + namespaces + `}`, monitors.Container{Name: "web"}},
		"pod": {id, `{"annotations": {"io.kubernetes.cri.container-name": "c", "io.kubernetes.cri.sandbox-name": "p", "io.kubernetes.cri.sandbox-namespace": "n",
			"io.kubernetes.cri.image-name": "registry/i:1"}, ` + namespaces + `}`, monitors.Container{Name: "n/p/c", Image: "registry/i:1"}},
		"no JSON": {id, `{`, monitors.Container{}},
	} {
		dir := task(t, c.id)
		pid := monitor(t, dir, "containerd-shim-runc-v2", "-namespace", "some", "-id", c.id)
		if got, ok := find(t, pid); ok {
			t.Errorf("%s: before it is made: %+v", name, got)
		}
		write(t, dir, "config.json", c.config)
		write(t, dir, "init.pid", strconv.Itoa(pid))
		c.want.ID, c.want.Engine, c.want.Namespace, c.want.PID, c.want.UID = "", monitors.Containerd, "some", pid, os.Geteuid()
		got, _ := find(t, pid)
		if string(got.ID) != c.id {
			t.Errorf("%s: id %q, want %q", name, got.ID, c.id)
		}
		if got.ID = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestAShimIsNotBelievedAboutOthers: the process must be a shim's child, and what is to be read a file.
func TestAShimIsNotBelievedAboutOthers(t *testing.T) {
	dir := task(t, "web")
	pid := monitor(t, dir, "containerd-shim-runc-v2", "-namespace", "some", "-id", "web")
	write(t, dir, "init.pid", strconv.Itoa(os.Getpid()))
	if got, ok := find(t, os.Getpid()); ok {
		t.Errorf("somebody else's child: %+v", got)
	}
	for what, put := range map[string]func(string) error{
		"a pipe":      func(name string) error { return syscall.Mkfifo(name, 0o600) },
		"a directory": func(name string) error { return os.Mkdir(name, 0o700) },
		"a device":    func(name string) error { return os.Symlink("/dev/zero", name) },
		"text":        func(name string) error { return os.WriteFile(name, []byte("none"), 0o600) },
		"much":        func(name string) error { return os.WriteFile(name, []byte(strings.Repeat(" ", 1<<20)), 0o600) },
	} {
		name := filepath.Join(dir, "init.pid")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := put(name); err != nil {
			t.Fatal(err)
		}
		if got, ok := find(t, pid); ok {
			t.Errorf("init.pid is %s: %+v", what, got)
		}
	}
}
