//go:build systemd

package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/testkit"
)

// bootScript makes the copy and becomes systemd in it. Nothing of the machine is started but what is asked for, and
// Docker's and containerd's directories are empty, so that no container of the machine's runs twice.
const bootScript = `set -e
cd "$DIR"
mkdir cover root
mount -t tmpfs -o mode=0755 tmpfs cover
mkdir cover/upper cover/work
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/cover/upper,workdir=$DIR/cover/work" root
mount --make-private root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount -t cgroup2 cgroup2 root/sys/fs/cgroup
for dir in run dev tmp; do mount -t tmpfs -o mode=0755 tmpfs root/$dir; done
while read -r name major minor; do mknod -m 666 root/dev/$name c $major $minor; done <<'END'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
mkdir root/dev/pts root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
for dir in docker containerd; do mkdir -p root/var/lib/$dir; mount -t tmpfs tmpfs root/var/lib/$dir; done
mkdir root/run/bin
mount --bind "$BIN" root/run/bin
cd root
pivot_root . .
umount -l /
cd /
rm -rf /etc/systemd/system/*.wants /etc/systemd/system/taskrole* /etc/docker/daemon.json /etc/cdi /etc/taskrole
exec env -i container=taskrole-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --unit=basic.target --log-target=console --show-status=no
`

// machine is a booted copy.
type machine struct {
	t   *testing.T
	pid string // of its systemd, for us
}

func boot(t *testing.T) *machine {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.SkLookup, testkit.Cgroup2, testkit.Docker)
	isolated(t)
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cgroup := filepath.Join(hierarchy(t), "taskrole-systemd")
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("bash", "-c", `echo $$ >"$1/cgroup.procs" && exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup `+
		`--propagation private bash -c "$2"`, "boot", cgroup, bootScript)
	cmd.Env = append(os.Environ(), "DIR="+dir, "BIN="+bin)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	m := &machine{t: t}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it, by --kill-child, its systemd and the whole of the copy
		<-ended
		m.eventually("the cgroup is empty", func() error { return removeTree(cgroup) })
	})
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("systemd:\n%s", text)
		}
	})
	m.eventually("systemd runs", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil || len(strings.Fields(string(children))) != 1 {
			return fmt.Errorf("children %q, %w", children, err)
		}
		m.pid = strings.TrimSpace(string(children))
		if comm, err := os.ReadFile("/proc/" + m.pid + "/comm"); err != nil || string(comm) != "systemd\n" {
			return fmt.Errorf("it is still %q, %w", comm, err)
		}
		out, err := m.try("systemctl", "is-system-running")
		if out == "running" || out == "degraded" {
			return nil
		}
		return fmt.Errorf("it is %s, %w", out, err)
	})
	return m
}

// isolated makes sure that nothing which is started here reaches the machine's network.
func isolated(t *testing.T) {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if d.Flags&net.FlagLoopback == 0 && d.Flags&net.FlagUp != 0 {
			t.Fatalf("the network device %s is in reach: run this by make test-systemd", d.Name)
		}
	}
}

// hierarchy is where the machine has its cgroups of version 2.
func hierarchy(t *testing.T) string {
	t.Helper()
	for _, dir := range testkit.Cgroup2Mounts() {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	t.Fatal("no cgroup v2 hierarchy is mounted")
	return ""
}

// removeTree removes cgroups, the innermost first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(dir))
}

// try runs a command in the copy and returns what it says.
func (m *machine) try(words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", m.pid, "-m", "-p", "-u", "-i", "-C", "-r", "-w", "env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "AWS_EC2_METADATA_DISABLED=true",
	}, words...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// do is try for what has to succeed.
func (m *machine) do(words ...string) string {
	m.t.Helper()
	out, err := m.try(words...)
	if err != nil {
		m.t.Fatalf("%q: %v\n%s", words, err, out)
	}
	return out
}

// write makes a file in the copy.
func (m *machine) write(path, text string) {
	m.t.Helper()
	full := filepath.Join("/proc", m.pid, "root", path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) eventually(what string, ok func() error) {
	m.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			m.t.Fatalf("never: %s: %v", what, err)
		}
	}
}
