package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The descriptors the first process finds, after stdin, stdout and stderr.
const (
	fdSync  = 3 // both directions: "ready", then our "go", then "waiting"
	fdStart = 4 // the pipe of start
	fdOwner = 5 // a pidfd of whoever creates containers, the lab
)

// The words on the sync socket, one byte each. Whatever else comes from the first process is an error text.
const (
	wordReady   = 'R' // its namespaces are there and lo is up
	wordGo      = 'G' // the hooks have run
	wordWaiting = 'W' // its root is in place, it waits for start
)

// create makes the container up to the point where only start is missing, or leaves nothing.
func create(ctx context.Context, s *store, bundle, pidFile string) (err error) {
	bundle, err = filepath.Abs(bundle)
	if err != nil {
		return err
	}
	spec, err := loadSpec(bundle)
	if err != nil {
		return err
	}
	if err := s.make(); err != nil {
		return err
	}
	c := &creation{store: s, spec: spec, bundle: bundle}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(ctx))
		}
	}()
	if err := c.spawn(); err != nil {
		return fmt.Errorf("start first process of %s: %w", s.id, err)
	}
	defer func() { _ = c.sync.Close() }() // a socket: everything has been read or is of no use
	if err := c.negotiate(ctx); err != nil {
		return err
	}
	if pidFile != "" {
		if err := os.WriteFile(pidFile, []byte(strconv.Itoa(c.init.Pid)), 0o600); err != nil {
			return err
		}
	}
	return s.write(record{State: c.state(specs.StateCreated), Cgroup: c.cgroup})
}

// creation is a create under way.
type creation struct {
	store  *store
	spec   *specs.Spec
	bundle string
	init   *os.Process
	sync   *os.File
	cgroup string
}

func (c *creation) state(status specs.ContainerState) specs.State {
	return specs.State{
		Version: specs.Version, ID: c.store.id, Status: status, Pid: c.init.Pid, Bundle: c.bundle, Annotations: c.spec.Annotations,
	}
}

// undo kills the first process and removes what was made.
func (c *creation) undo(ctx context.Context) error {
	if c.init != nil {
		_ = c.init.Kill() // it may have ended by itself
		_, _ = c.init.Wait()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteWait)
	defer cancel()
	return errors.Join(removeCgroup(ctx, c.cgroup), os.RemoveAll(c.store.dir))
}

// spawn starts our own program again, in the new namespaces and the new cgroup.
func (c *creation) spawn() error {
	flags, err := cloneFlags(c.spec)
	if err != nil {
		return err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// Only our end: it gets deadlines by it, and the first process reads its end without a poller.
	if err := syscall.SetNonblock(pair[0], true); err != nil {
		return errors.Join(err, syscall.Close(pair[0]), syscall.Close(pair[1]))
	}
	c.sync = os.NewFile(uintptr(pair[0]), "sync")
	theirs := os.NewFile(uintptr(pair[1]), "sync")
	// Opened for both directions, so that neither this open nor that of start waits for the other.
	start, err := os.OpenFile(c.store.fifo(), os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, theirs.Close(), c.sync.Close())
	}
	owner, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return errors.Join(fmt.Errorf("open our parent: %w", err), theirs.Close(), start.Close(), c.sync.Close())
	}
	parent := os.NewFile(uintptr(owner), "owner")
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	var cgroup *os.File
	if c.cgroup, cgroup, err = makeCgroup(c.spec.Linux.CgroupsPath); err == nil {
		if cgroup != nil {
			attr.UseCgroupFD, attr.CgroupFD = true, int(cgroup.Fd())
		}
		c.init, err = startInit(attr, theirs, start, parent)
	}
	for _, f := range []*os.File{theirs, start, parent, cgroup} {
		if f != nil {
			_ = f.Close() // the child has its own
		}
	}
	if err != nil {
		return errors.Join(err, c.sync.Close())
	}
	plan, err := json.Marshal(initPlan{Spec: c.spec, Bundle: c.bundle, NewNetwork: hasNewNetwork(c.spec)})
	if err != nil {
		return err
	}
	_, err = c.sync.Write(plan)
	return err
}

// startInit does not use a Cmd: its goroutines would wait for the container's output, which outlives us.
func startInit(attr *syscall.SysProcAttr, sync, start, owner *os.File) (*os.Process, error) {
	return os.StartProcess("/proc/self/exe", []string{Name, initVerb}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, sync, start, owner}, Sys: attr,
	})
}

func (c *creation) negotiate(ctx context.Context) error {
	if err := c.await(wordReady); err != nil {
		return err
	}
	if c.spec.Hooks != nil {
		for i, h := range c.spec.Hooks.CreateRuntime {
			if err := runHook(ctx, h, c.state(specs.StateCreating)); err != nil {
				return fmt.Errorf("error running createRuntime hook #%d: %w", i, err)
			}
		}
	}
	if _, err := c.sync.Write([]byte{wordGo}); err != nil {
		return err
	}
	return c.await(wordWaiting)
}

// syncTimeout bounds what the first process may take for one step; it only makes mounts.
const syncTimeout = 10 * time.Second

func (c *creation) await(word byte) error {
	if err := c.sync.SetReadDeadline(time.Now().Add(syncTimeout)); err != nil {
		return err
	}
	return receive(c.sync, word)
}

// receive expects one word; another text is the first process's error, nothing its end.
func receive(f *os.File, word byte) error {
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("wait for first process: %w", err)
	case n == 0:
		return errors.New("first process ended before it was ready")
	case n == 1 && buf[0] == word:
		return nil
	}
	return errors.New("error during container init: " + string(buf[:n]))
}

// hookTimeout is for hooks that name none: an engine would wait for ever, a demo must not.
const hookTimeout = 60 * time.Second

// hookOutput bounds what is kept of a hook's output.
const hookOutput = 8 << 10

// runHook gives the hook the state on stdin and turns a failure into runc's words.
func runHook(ctx context.Context, h specs.Hook, st specs.State) error {
	timeout := hookTimeout
	if h.Timeout != nil && *h.Timeout > 0 {
		timeout = time.Duration(*h.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	in, err := json.Marshal(st)
	if err != nil {
		return err
	}
	var stdout, stderr limited
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // not nil: nil would be our own
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(string(in)), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w after %s", ctx.Err(), timeout)
	}
	if err != nil {
		return fmt.Errorf("%w, stdout: %s, stderr: %s", err, stdout.String(), stderr.String())
	}
	return nil
}

// limited keeps the first hookOutput bytes.
type limited struct{ strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	if room := hookOutput - l.Len(); room > 0 {
		l.Builder.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
