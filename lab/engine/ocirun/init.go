package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// initPlan is what create tells the first process.
type initPlan struct {
	Spec       *specs.Spec
	Bundle     string
	NewNetwork bool
}

// planLimit bounds the plan; a sequenced-packet socket carries it as one message.
const planLimit = 128 << 10

// initMain is the first process of the container until it becomes the container's own program.
func initMain(stderr io.Writer) int {
	// Death signal and no_new_privs belong to the thread, and the thread that executes is the one that stays.
	runtime.LockOSThread()
	syncSocket := os.NewFile(fdSync, "sync")
	start := os.NewFile(fdStart, "start")
	owner := os.NewFile(fdOwner, "owner")
	err := initRun(syncSocket, start, owner) // a success does not come back
	// Create reads the socket until the container is made; whoever runs the container reads stderr after that.
	if _, e := syncSocket.WriteString(err.Error()); e != nil {
		complain(stderr, err)
	}
	return exitError
}

func initRun(syncSocket, start, owner *os.File) error {
	buf := make([]byte, planLimit)
	n, err := syncSocket.Read(buf)
	if err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	var p initPlan
	if err := json.Unmarshal(buf[:n], &p); err != nil {
		return fmt.Errorf("decode plan: %w", err)
	}
	if p.NewNetwork {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	if p.Spec.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Spec.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if _, err := syncSocket.Write([]byte{wordReady}); err != nil {
		return err
	}
	if err := receive(syncSocket, wordGo); err != nil {
		return err
	}
	if err := enterRoot(p.Spec); err != nil {
		return err
	}
	if _, err := syncSocket.Write([]byte{wordWaiting}); err != nil {
		return err
	}
	return execute(p.Spec.Process, syncSocket, start, owner)
}

// execute waits for start and becomes the container's program.
func execute(p *specs.Process, syncSocket, start, owner *os.File) error {
	if err := syncSocket.Close(); err != nil {
		return err
	}
	if err := awaitStart(start, owner); err != nil {
		return fmt.Errorf("wait for start: %w", err)
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if p.Cwd != "" {
		if err := unix.Chdir(p.Cwd); err != nil {
			return fmt.Errorf("change directory to %q: %w", p.Cwd, err)
		}
	}
	path, err := lookPath(p.Args[0], p.Env)
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %q: %w", path, unix.Exec(path, p.Args, p.Env))
}

// awaitStart returns when start says so. Between create and start nobody is our parent whose death would tell us that
// the lab was killed: we look at it ourselves.
func awaitStart(start, owner *os.File) error {
	ready, err := poll([]unix.PollFd{{Fd: fdStart, Events: unix.POLLIN}, {Fd: fdOwner, Events: unix.POLLIN}}, -1)
	if err != nil {
		return err
	}
	if ready[1] {
		return errOwnerGone
	}
	if _, err := start.Read(make([]byte, 1)); err != nil {
		return err
	}
	// Now whoever creates containers is our parent. Should it be killed, nothing of it must stay.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	// It may have been killed just before.
	ready, err = poll([]unix.PollFd{{Fd: fdOwner, Events: unix.POLLIN}}, 0)
	if err == nil && ready[0] {
		err = errOwnerGone
	}
	return errors.Join(err, start.Close(), owner.Close())
}

var errOwnerGone = errors.New("whoever made this container is gone")

// poll says of each descriptor whether it is ready.
func poll(fds []unix.PollFd, timeout int) ([]bool, error) {
	for {
		_, err := unix.Poll(fds, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		ready := make([]bool, len(fds))
		for i, f := range fds {
			ready[i] = f.Revents != 0
		}
		return ready, err
	}
}

// lookPath searches the container's PATH, not ours.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		for _, dir := range filepath.SplitList(list) {
			if !ok {
				break
			}
			path := filepath.Join("/", dir, name)
			if unix.Access(path, unix.X_OK) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("exec: %.80q: executable file not found in $PATH", name)
}

// loopbackUp sets IFF_UP on lo of the new network namespace, as every runtime does.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }() // nothing was written
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// enterRoot mounts what the bundle names under its root and makes that root the only one.
func enterRoot(s *specs.Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// pivot_root wants a mount point.
	if err := unix.Mount(s.Root.Path, s.Root.Path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root %q: %w", s.Root.Path, err)
	}
	for _, m := range s.Mounts {
		if err := mount(s.Root.Path, m); err != nil {
			return fmt.Errorf("mount %q on %q: %w", m.Source, m.Destination, err)
		}
	}
	if err := unix.Chdir(s.Root.Path); err != nil {
		return err
	}
	// The old root lands on top of the new one and goes away again, so that no directory is needed for it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach old root: %w", err)
	}
	if s.Root.Readonly {
		if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make root read-only: %w", err)
		}
	}
	return unix.Chdir("/")
}

// mount makes one mount of the bundle. The bundle is the engine's own, and its root holds no links: this runtime
// need not defend itself against an image as a real one must.
func mount(root string, m specs.Mount) error {
	target := filepath.Join(root, filepath.Clean("/"+m.Destination))
	var flags uintptr
	var data []string
	names := map[string]uintptr{
		"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC, "ro": unix.MS_RDONLY,
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	}
	for _, o := range m.Options {
		if f, ok := names[o]; ok {
			flags |= f
		} else {
			data = append(data, o)
		}
	}
	if err := makeTarget(target, m); err != nil {
		return err
	}
	if flags&unix.MS_BIND == 0 {
		return unix.Mount(m.Source, target, m.Type, flags, strings.Join(data, ","))
	}
	if err := unix.Mount(m.Source, target, "", flags&(unix.MS_BIND|unix.MS_REC), ""); err != nil {
		return err
	}
	if flags&^(unix.MS_BIND|unix.MS_REC) == 0 {
		return nil
	}
	// A bind takes other flags only in a second step.
	return unix.Mount("", target, "", flags|unix.MS_REMOUNT, "")
}

// makeTarget makes the mount point: a file for a bound file, a directory for everything else.
func makeTarget(target string, m specs.Mount) error {
	st, err := os.Stat(m.Source)
	isFile := m.Type != "proc" && m.Type != "tmpfs" && err == nil && !st.IsDir()
	if !isFile {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}
