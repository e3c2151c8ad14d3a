package ec2

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/container"
	"taskrole/lab/ec2/engineroot"
)

// EngineVerb is the first argument with which NewDocker runs its own program again, as the engine's supervisor. A
// program that uses NewDocker must hand over to EngineMain when it sees it, and so must the TestMain of a test.
const EngineVerb = engineroot.Verb

// EngineMain is that supervisor (package engineroot), with the program's own standard input and output. The result
// is the exit status.
func EngineMain(stdin io.Reader, stdout io.Writer) int { return engineroot.Main(stdin, stdout) }

// DockerOptions describe a private engine.
type DockerOptions struct {
	// Kind is which engine; Docker when empty. The others need a Root.
	Kind engineroot.Kind
	// Dir is where the daemon's own directory is made; the instance's directory when empty. It must be short.
	Dir string
	// Root is a root file system with Docker in it, which the daemon then runs in; empty is the machine's Docker.
	// The tree is only read.
	Root string
	// Runtime is the path of taskrole-runtime, which becomes the daemon's runtime "taskrole"; empty is none.
	Runtime string
	// OCIRuntime is the runtime that taskrole-runtime hands over to; empty lets it choose.
	OCIRuntime string
	// CDIDir is where the agent writes CDI documents, on this machine. Docker before 25 ignores it.
	CDIDir string
	// Spec is the path of the agent's CDI document, which the runtime shim reads; empty is its default.
	Spec string
	// SocketDir is the directory of the agent's control socket.
	SocketDir string
	// Share are more directories of this machine that a daemon with a Root must see, at the same paths: above all
	// those of Container.Files.
	Share []string
	// CgroupV2 gives the daemon a v2 hierarchy, also where the machine boots with v1. A Root always gets that.
	CgroupV2 bool
}

// Docker is a private engine inside an instance: Docker itself, or Podman, whose client has the same words, or
// containerd with ctr. It is never the daemon of the machine's user: it has its own
// directories, sockets, mounts, cgroups and network.
type Docker struct {
	inst     *Instance
	plan     engineroot.Plan
	version  string
	cli      string
	thread   *thread // inside the instance's network and the engine's mounts
	stdin    io.Closer
	reports  <-chan engineroot.Report
	exited   <-chan error
	close    func() error
	waysIn   []container.Way
	pid      int
	networks sync.Mutex // guards the making of custom
	custom   bool
	entries  map[string][]string // of containerd: the entry points of our images
}

// FindDocker returns the path of dockerd in a root file system, "" meaning this machine. The error wraps
// exec.ErrNotFound when there is none.
func FindDocker(root string) (string, error) {
	return engineroot.Find("/"+strings.TrimPrefix(root, "/"), "dockerd")
}

// NewDocker starts a daemon in the instance and returns once it answers. When ctx ends before that, or anything
// fails, nothing is left behind. Instance.Close closes it too. The calling program must know EngineVerb.
func NewDocker(ctx context.Context, i *Instance, o DockerOptions) (_ *Docker, err error) {
	if o.Kind == "" {
		o.Kind = engineroot.Docker
	}
	if _, err := engineroot.Find("/"+strings.TrimPrefix(o.Root, "/"), o.Kind.Program()); err != nil {
		return nil, err
	}
	if o.Kind != engineroot.Docker && o.Root == "" {
		return nil, fmt.Errorf("%s of the machine would be used together with its own: %w", o.Kind, errNoRoot)
	}
	d := &Docker{inst: i, entries: map[string][]string{}}
	if d.plan, err = newPlan(i, o); err != nil {
		return nil, err
	}
	d.close = func() error { return os.RemoveAll(d.plan.Dir) }
	if err := d.supervise(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	if err := d.await(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", o.Kind, err), d.close())
	}
	if err := d.findWays(o); err != nil {
		return nil, errors.Join(err, d.close())
	}
	if err := i.own(d); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

var errNoRoot = errors.New("name a root file system that has it")

func (d *Docker) findWays(o DockerOptions) error {
	if o.Runtime != "" {
		d.waysIn = append(d.waysIn, container.WayShim)
	}
	knows := o.CDIDir != ""
	if o.Kind == engineroot.Docker {
		major, err := engineroot.Major(d.version)
		if err != nil {
			return err
		}
		knows = knows && major >= engineroot.CDIMajor
	}
	if knows {
		d.waysIn = append(d.waysIn, container.WayCDI)
	}
	return nil
}

func newPlan(i *Instance, o DockerOptions) (engineroot.Plan, error) {
	p := engineroot.Plan{
		Kind: o.Kind, Root: o.Root, Runtime: o.Runtime, CDIDir: o.CDIDir, CgroupV2: o.CgroupV2 || o.Root != "",
		Bridge: dockerBridge, Pool: dockerPool, DNS: servicesAddr,
	}
	base := o.Dir
	if base == "" {
		base = i.dir
	}
	if o.Spec != "" {
		p.Env = append(p.Env, "TASKROLE_CDI_SPEC="+o.Spec)
	}
	if o.OCIRuntime != "" {
		p.Env = append(p.Env, "TASKROLE_OCI_RUNTIME="+o.OCIRuntime)
	}
	for _, dir := range append([]string{o.CDIDir, o.SocketDir}, o.Share...) {
		if dir != "" {
			p.Binds = append(p.Binds, filepath.Clean(dir))
		}
	}
	if o.Runtime != "" {
		p.Binds = append(p.Binds, filepath.Dir(o.Runtime))
	}
	slices.Sort(p.Binds)
	p.Binds = slices.Compact(p.Binds)
	base, err := filepath.Abs(base)
	if err != nil {
		return engineroot.Plan{}, fmt.Errorf("docker's directory: %w", err)
	}
	if p.Dir, err = os.MkdirTemp(base, "d"); err != nil {
		return engineroot.Plan{}, fmt.Errorf("make docker's directory: %w", err)
	}
	p.Cgroup = cgroupPrefix(base) + filepath.Base(p.Dir)
	if err := engineroot.CheckLength(p.Dir); err != nil {
		return engineroot.Plan{}, errors.Join(err, os.Remove(p.Dir))
	}
	return p, nil
}

// cgroupPrefix is how the names of the cgroups of all engines with directories in base begin: so they can be
// recognised, also after an engine that did not start.
func cgroupPrefix(base string) string {
	return fmt.Sprintf("taskrole-lab-%x", sha256.Sum256([]byte(base)))[:len("taskrole-lab-")+8] + "-"
}

// supervise starts the supervisor in the instance's network namespace and in a mount namespace of its own, and
// hands it the plan.
func (d *Docker) supervise() error {
	line, err := json.Marshal(d.plan)
	if err != nil {
		return err
	}
	// Not bound to a context: it ends by itself once its standard input does, after cleaning up.
	cmd := exec.Command("/proc/self/exe", EngineVerb) //nolint:noctx // see above
	isolate(cmd)
	cmd.Stderr = os.Stderr // a crash of our own program must be seen
	// Cloneflags, because a Go program cannot unshare its mounts later: it has threads from the start.
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return errors.Join(err, stdin.Close())
	}
	if err := d.inst.thread.do(cmd.Start); err != nil {
		return fmt.Errorf("start the engine's supervisor: %w", err)
	}
	d.stdin, d.pid, d.close = stdin, cmd.Process.Pid, sync.OnceValue(d.shutDown)
	reports, exited := make(chan engineroot.Report), make(chan error, 1)
	d.reports, d.exited = reports, exited
	go func() {
		lines := json.NewDecoder(bufio.NewReader(stdout))
		for {
			var r engineroot.Report
			if err := lines.Decode(&r); err != nil {
				break // it closed its output: it has ended
			}
			reports <- r
		}
		close(reports)
		exited <- cmd.Wait()
	}()
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("instruct the engine's supervisor: %w", err)
	}
	return nil
}

// await waits until the daemon answers.
func (d *Docker) await(ctx context.Context) error {
	cli, err := d.report(ctx)
	if err != nil {
		return err
	}
	d.cli = cli
	if err := d.enter(); err != nil {
		return err
	}
	return d.answers(ctx)
}

// report waits until the supervisor has started the daemon, and returns where its client is.
func (d *Docker) report(ctx context.Context) (cli string, _ error) {
	select {
	case r, ok := <-d.reports:
		if !ok {
			return "", errors.New("the engine's supervisor ended without a word")
		}
		if r.Error != "" {
			return "", errors.New(r.Error)
		}
		return r.CLI, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// answers waits until the daemon that has been started answers.
func (d *Docker) answers(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if v, err := d.ask(ctx); err == nil {
			d.version = v
			return nil
		}
		select {
		case r, ok := <-d.reports:
			if !ok {
				return errors.New("the engine's supervisor ended without a word")
			}
			return errors.New(r.Error)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Restart stops the daemon as a service manager does, starts it again, and waits until it answers. Its containers end
// with it; those that have a restart policy come back.
func (d *Docker) Restart(ctx context.Context) error {
	if err := unix.Kill(d.pid, engineroot.RestartSignal); err != nil {
		return fmt.Errorf("restart docker: %w", err)
	}
	if _, err := d.report(ctx); err != nil {
		return fmt.Errorf("restart docker: %w", err)
	}
	if err := d.answers(ctx); err != nil {
		return fmt.Errorf("restart docker: %w", err)
	}
	return nil
}

// enter makes the thread on which the docker client is started: inside the engine's mounts, because the client
// that fits a daemon in a tree is in that tree.
func (d *Docker) enter() error {
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", d.pid))
	if err != nil {
		return fmt.Errorf("find the engine's mounts: %w", err)
	}
	defer func() { _ = mounts.Close() }()
	t, err := newThread(func() error {
		if err := enterNet(d.inst.net.instance); err != nil {
			return err
		}
		// setns(2): a thread that shares its root and working directory with others cannot change mount namespaces.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the working directory: %w", err)
		}
		if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the engine's mounts: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.thread = t
	return nil
}

// ask returns the daemon's version, or an error while it is not ready.
func (d *Docker) ask(ctx context.Context) (string, error) {
	if d.plan.Kind == engineroot.Containerd {
		return d.askContainerd(ctx)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.plan.Socket())
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/version", nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var v struct{ Version string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || v.Version == "" {
		return "", fmt.Errorf("docker answers %s", resp.Status)
	}
	return v.Version, nil
}

// Name is the kind and the version: "docker 20.10.24+dfsg1".
func (d *Docker) Name() string { return string(d.plan.Kind) + " " + d.version }

// Version is what the daemon says: "20.10.24+dfsg1".
func (d *Docker) Version() string { return d.version }

// Host is the daemon's address as DOCKER_HOST wants it: a Unix socket that this machine can reach.
func (d *Docker) Host() string { return "unix://" + d.plan.Socket() }

// Log is the path of the daemon's log while it runs.
func (d *Docker) Log() string { return d.plan.Log() }

// Root is the path under which this machine sees the engine's root file system while it runs.
func (d *Docker) Root() string { return fmt.Sprintf("/proc/%d/root", d.pid) }

// Cgroup is the name of the directory below the root of every cgroup hierarchy that holds all of this engine.
func (d *Docker) Cgroup() string { return d.plan.Cgroup }

// WaysIn are the ways in which a container can come to taskrole here, the plainest first.
func (d *Docker) WaysIn() []container.Way { return slices.Clone(d.waysIn) }

// Close removes the containers, ends the daemon and everything it started, and removes its files, mounts and
// cgroups. Calling it again is harmless and returns the same.
func (d *Docker) Close() error { return d.close() }

func (d *Docker) shutDown() error {
	var errs []error
	if d.version != "" {
		errs = append(errs, d.removeAll())
	}
	if d.thread != nil {
		d.thread.end()
	}
	errs = append(errs, d.stdin.Close())
	for r := range d.reports {
		if r.Error != "" {
			errs = append(errs, errors.New(r.Error))
		}
		for _, left := range r.Left {
			errs = append(errs, fmt.Errorf("clean up after docker: %s", left))
		}
	}
	if err := <-d.exited; err != nil {
		errs = append(errs, fmt.Errorf("the engine's supervisor: %w", err))
	}
	return errors.Join(append(errs, os.RemoveAll(d.plan.Dir))...)
}
