package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/address"
	"taskrole/internal/netns"
	"taskrole/lab/ec2/engineroot"
	"taskrole/lab/ec2/leftover"
)

// Cloud is what the instance is surrounded by; lab/cloud has it.
type Cloud interface {
	// Services answers for STS and S3.
	Services() http.Handler
	// MetadataServer is the instance metadata service. The instance serves and closes it.
	MetadataServer() *http.Server
	// Control is the endpoint that injects faults.
	Control() http.Handler
}

// Options describe an instance.
type Options struct {
	// Cloud is required.
	Cloud Cloud
	// Dir is a directory for sockets and for the state of engines; it is made when missing, and removed at the end
	// if it was. Empty is a fresh one among the temporary files. It must be short: the path of a Unix socket has
	// 107 bytes, and Docker adds some 40.
	Dir string
	// Logger gets what the servers complain about; nil drops it.
	Logger *slog.Logger
}

// Instance is the simulated machine. All methods can be called by several goroutines.
type Instance struct {
	dir     string
	ownDir  bool
	logger  *slog.Logger
	net     *network
	thread  *thread
	servers []*http.Server
	serving sync.WaitGroup

	mu      sync.Mutex // guards what follows
	engines []io.Closer
	pidfds  []int // of the processes started
	closed  bool
}

// Launch makes the instance and serves the cloud around it. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN. When ctx ends
// during the launch, or anything fails, nothing is left behind; afterwards ctx means nothing and Close ends it all.
func Launch(ctx context.Context, o Options) (_ *Instance, err error) {
	i := &Instance{dir: o.Dir, logger: o.Logger}
	if i.logger == nil {
		i.logger = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := i.makeDir(); err != nil {
		return nil, err
	}
	if i.net, err = newNetwork(); err != nil {
		return nil, err
	}
	if i.thread, err = newThread(func() error { return enterNet(i.net.instance) }); err != nil {
		i.thread = nil
		return nil, err
	}
	if err := i.serveAll(ctx, o.Cloud); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Instance) makeDir() (err error) {
	if i.dir == "" {
		i.ownDir = true
		if i.dir, err = os.MkdirTemp("", "tr-lab-"); err != nil {
			return fmt.Errorf("make the lab's directory: %w", err)
		}
		return nil
	}
	if i.dir, err = filepath.Abs(i.dir); err != nil {
		return fmt.Errorf("the lab's directory: %w", err)
	}
	_, err = os.Stat(i.dir)
	i.ownDir = errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	return nil
}

// serveAll opens every listener before it serves the first, so that whoever is told of the instance can use it.
func (i *Instance) serveAll(ctx context.Context, c Cloud) error {
	services := &http.Server{Handler: c.Services(), ReadHeaderTimeout: 10 * time.Second}
	control := &http.Server{Handler: c.Control(), ReadHeaderTimeout: 10 * time.Second}
	unixControl := func() (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", i.ControlSocket())
		if err != nil {
			return nil, fmt.Errorf("listen for control requests: %w", err)
		}
		return l, nil
	}
	tcp := func(addr string) func() (net.Listener, error) {
		return func() (net.Listener, error) { return listen(ctx, i.net.aws, addr) }
	}
	doors := []struct {
		server *http.Server
		open   func() (net.Listener, error)
	}{
		{c.MetadataServer(), tcp(address.IMDS.String())},
		{services, tcp(servicesAddr + ":80")},
		{control, tcp(net.JoinHostPort(servicesAddr, controlPort))},
		{control, unixControl},
	}
	listeners := make([]net.Listener, 0, len(doors))
	for _, d := range doors {
		l, err := d.open()
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // it never served anybody
			}
			return err
		}
		listeners = append(listeners, l)
	}
	for n, d := range doors {
		i.serve(d.server, listeners[n])
	}
	return nil
}

// serve runs one server on one listener until Close.
func (i *Instance) serve(s *http.Server, l net.Listener) {
	if s.ErrorLog == nil {
		s.ErrorLog = slog.NewLogLogger(i.logger.Handler(), slog.LevelWarn)
	}
	i.servers = append(i.servers, s)
	i.serving.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			i.logger.Error("serve", slog.String("error", err.Error()))
		}
	})
}

// NS is the instance's network namespace. It belongs to the instance.
func (i *Instance) NS() *netns.NS { return i.net.instance }

// Traces is what can be looked for, once the instance is closed, to see whether anything of it is left. It includes
// the engines so far.
func (i *Instance) Traces() leftover.Traces {
	t := leftover.Traces{
		Dirs:  []string{i.dir},
		NetNS: []uint64{i.net.aws.ID().Ino, i.net.instance.ID().Ino},
		// Also of engines that did not start.
		Cgroups: []string{cgroupPrefix(i.dir) + "*"},
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.engines {
		if d, ok := e.(*Docker); ok {
			t.Dirs = append(t.Dirs, d.plan.Dir)
			t.Cgroups = append(t.Cgroups, d.plan.Cgroup)
		}
	}
	return t
}

// Dir is the instance's directory.
func (i *Instance) Dir() string { return i.dir }

// ServicesURL is where STS and S3 answer, for clients in the instance and in its containers: it is what
// AWS_ENDPOINT_URL should be there.
func (i *Instance) ServicesURL() string { return "http://" + servicesAddr }

// ControlURL is the control endpoint for clients in the instance.
func (i *Instance) ControlURL() string {
	return "http://" + net.JoinHostPort(servicesAddr, controlPort)
}

// ControlSocket is the same endpoint for clients outside: a Unix socket, because the instance's network cannot be
// reached from the machine.
func (i *Instance) ControlSocket() string { return filepath.Join(i.dir, "control.sock") }

// Start starts cmd inside the instance's network namespace; the caller waits for it with cmd.Wait. The process gets
// just the environment in cmd.Env, and nothing but PATH if that is empty: never the caller's own, where credentials
// may be. It is killed when the instance is closed and when this program dies, however it does. It is in a process
// group of its own, so that Ctrl-C at a terminal reaches only us and things end in order.
func (i *Instance) Start(cmd *exec.Cmd) error {
	isolate(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return i.thread.do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		i.remember(cmd.Process.Pid)
		return nil
	})
}

// isolate applies what all processes of the lab have in common.
func isolate(cmd *exec.Cmd) {
	if len(cmd.Env) == 0 {
		cmd.Env = []string{"PATH=" + engineroot.Path}
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// remember keeps a handle of a process until it has ended. The number alone would not do: somebody else waits for
// the process, and then it can name another one.
func (i *Instance) remember(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended and was waited for already
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	running := i.pidfds[:0]
	for _, old := range i.pidfds {
		if ended(old, 0) {
			_ = unix.Close(old)
			continue
		}
		running = append(running, old)
	}
	i.pidfds = append(running, fd)
}

// ended waits up to d for the process behind a pidfd.
func ended(pidfd int, d time.Duration) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(d.Milliseconds())) //nolint:gosec // the kernel's descriptors are 32 bits
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}

// own makes Close close an engine first. It fails when that is too late.
func (i *Instance) own(c io.Closer) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return fmt.Errorf("use the instance: %w", errEnded)
	}
	i.engines = append(i.engines, c)
	return nil
}

// killPatience bounds how long the kernel may take to end a process that got SIGKILL.
const killPatience = 5 * time.Second

// Close ends the engines, then the processes, then the servers, and frees the namespaces. The error joins all that
// went wrong. Calling it again is harmless.
func (i *Instance) Close() error {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return nil
	}
	i.closed = true
	engines := i.engines
	i.mu.Unlock()

	var errs []error
	for _, e := range engines {
		errs = append(errs, e.Close())
	}
	if i.thread != nil {
		i.thread.end() // and with it goes what it started
	}
	i.mu.Lock()
	pidfds := i.pidfds
	i.pidfds = nil
	i.mu.Unlock()
	for _, fd := range pidfds {
		if !ended(fd, killPatience) {
			errs = append(errs, errors.New("a process in the instance does not end"))
		}
		_ = unix.Close(fd)
	}
	for _, s := range i.servers {
		errs = append(errs, s.Close())
	}
	i.serving.Wait()
	if i.net != nil {
		i.net.close()
	}
	if i.ownDir && i.dir != "" {
		errs = append(errs, os.RemoveAll(i.dir))
	}
	return errors.Join(errs...)
}

// enterNet moves the calling, locked thread into ns.
func enterNet(ns *netns.NS) error {
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the instance's network namespace: %w", err)
	}
	return nil
}
