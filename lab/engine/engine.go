// Package engine is the lab's container engine for machines without one: plain Linux namespaces as containers.
//
// It does what containerd does around a runtime, and only that: writes a bundle, calls the runtime (package ocirun)
// or the product's shim in front of it with runc's command line, connects the network of the created container,
// starts it, reaps it, deletes it. Containers hold nothing but the files they were given: there are no images, and
// Container.Image is ignored. It refuses ways in that it does not have (CDI).
//
// It is apart from lab/ec2 so that the simulated instance does not know how its containers are made.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/container"
	"taskrole/internal/netns"
	"taskrole/lab/ec2"
	"taskrole/lab/engine/ocirun"
)

// Instance is where the containers live.
type Instance interface {
	// Start starts a process in the instance's network namespace; the caller waits for it.
	Start(cmd *exec.Cmd) error
	// NS is that namespace.
	NS() *netns.NS
}

// Options make an engine; all fields but Spec are required.
type Options struct {
	Instance Instance
	// Dir is a directory of this engine alone; Close removes it.
	Dir string
	// Runtime is a program that is package ocirun when called by its name: the lab's own.
	Runtime string
	// Shim is the path of taskrole-runtime.
	Shim string
	// Spec is the path of the CDI document the shim reads.
	Spec string
}

// Engine implements ec2.Engine.
type Engine struct {
	o       Options
	runtime string // the link by whose name the lab's program is a runtime
	cgroup  string // of all containers, below the root of the hierarchy; empty where cgroup2 cannot be had
	net     *network

	mu     sync.Mutex // guards what follows
	closed bool
	runs   sync.WaitGroup
	names  map[string]bool
	inits  map[*run]*os.Process // the first process of each container that runs
}

// New prepares the directory, the cgroup and the bridges. It makes the calling process the reaper of its orphaned
// descendants (PR_SET_CHILD_SUBREAPER), as containerd's shim does: the runtime that creates a container does not
// live to see it end.
func New(o Options) (_ *Engine, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of containers: %w", err)
	}
	e := &Engine{
		o: o, names: map[string]bool{}, inits: map[*run]*os.Process{}, runtime: filepath.Join(o.Dir, "bin", ocirun.Name),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	for _, dir := range []string{"bin", "state", "bundles"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("prepare the engine's directory: %w", err)
		}
	}
	if err := os.Symlink(o.Runtime, e.runtime); err != nil {
		return nil, fmt.Errorf("name the runtime: %w", err)
	}
	e.makeCgroup()
	if e.net, err = newNetwork(o.Instance.NS()); err != nil {
		return nil, err
	}
	return e, nil
}

// makeCgroup makes the parent of the containers' cgroups. Where that cannot be done, because the host has no cgroup2
// or shows it read-only, containers share our own: they still run, and the agent tells them apart by namespace.
func (e *Engine) makeCgroup() {
	root := ocirun.CgroupRoot()
	ocirun.SweepCgroups(cgroupPrefix)
	name := fmt.Sprintf("/%s%d-%s", cgroupPrefix, os.Getpid(), newID()[:8])
	if root != "" && os.Mkdir(filepath.Join(root, name), 0o755) == nil {
		e.cgroup = name
	}
}

// cgroupPrefix begins the name of an engine's cgroup. Our process id follows, so that the next engine can tell what
// one that was killed has left.
const cgroupPrefix = "taskrole-lab-ns-"

// Name implements ec2.Engine.
func (*Engine) Name() string { return "namespace" }

// errClosed is the answer to a Run after Close.
var errClosed = errors.New("the engine is closed")

// Run implements ec2.Engine.
func (e *Engine) Run(ctx context.Context, c ec2.Container) (ec2.Result, error) {
	switch c.Way {
	case "", container.WayShim:
	default:
		return ec2.Result{}, fmt.Errorf("the namespace engine has no way in called %q", c.Way)
	}
	start := time.Now()
	r, err := e.begin(c)
	if err != nil {
		return ec2.Result{}, err
	}
	pid, refused, err := e.create(ctx, r)
	if err != nil || refused != nil {
		err = errors.Join(err, e.end(r))
		return ec2.Result{Exit: exitNotStarted, Stderr: refused, Elapsed: time.Since(start)}, err
	}
	if c.Detach {
		go func() { _, _ = e.reap(context.WithoutCancel(ctx), r, pid) }() // e.runs counts it, Close ends it and waits
		return ec2.Result{Stdout: []byte(r.id + "\n"), Elapsed: time.Since(start)}, nil
	}
	result, err := e.reap(ctx, r, pid)
	result.Elapsed = time.Since(start)
	return result, err
}

// exitNotStarted is docker's status for a container that was never started.
const exitNotStarted = 125

// run is one container from its request to its end.
type run struct {
	c      ec2.Container
	id     string
	name   string
	bundle string
	shim   bool
	stdout *os.File
	stderr *os.File
}

func (r *run) logPath() string { return filepath.Join(r.bundle, "runtime.log") }

// begin books the name and makes the bundle's directory.
func (e *Engine) begin(c ec2.Container) (_ *run, err error) {
	r := &run{c: c, id: newID(), name: c.Name, shim: c.Way == container.WayShim}
	if r.name == "" {
		r.name = r.id[:12]
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, errClosed
	}
	if e.names[r.name] {
		e.mu.Unlock()
		return nil, fmt.Errorf("the container name %q is in use", r.name)
	}
	e.names[r.name] = true
	e.runs.Add(1)
	e.mu.Unlock()

	r.bundle = filepath.Join(e.o.Dir, "bundles", r.id)
	if err := os.MkdirAll(filepath.Join(r.bundle, "rootfs"), 0o700); err != nil {
		return nil, errors.Join(err, e.end(r))
	}
	// Files and not pipes: the container inherits them from the runtime, and waiting for the end of a pipe would be
	// waiting for the container.
	for name, f := range map[string]**os.File{"stdout": &r.stdout, "stderr": &r.stderr} {
		if *f, err = os.OpenFile(filepath.Join(r.bundle, name), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
			return nil, errors.Join(err, e.end(r))
		}
	}
	return r, nil
}

// end frees everything begin took.
func (e *Engine) end(r *run) error {
	for _, f := range []*os.File{r.stdout, r.stderr} {
		if f != nil {
			_ = f.Close() // read and done with
		}
	}
	err := os.RemoveAll(r.bundle)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.names, r.name)
	delete(e.inits, r)
	e.runs.Done()
	return err
}

// Close implements ec2.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	for _, p := range e.inits {
		_ = p.Kill() // it may have ended
	}
	e.mu.Unlock()
	e.runs.Wait()
	errs := []error{os.RemoveAll(e.o.Dir)}
	if e.cgroup != "" {
		errs = append(errs, ocirun.RemoveCgroup(e.cgroup))
	}
	if e.net != nil {
		errs = append(errs, e.net.close())
	}
	e.cgroup, e.net = "", nil
	return errors.Join(errs...)
}

// newID makes a container id as Docker's: 64 hexadecimal digits.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand, Go ≥ 1.24
	return hex.EncodeToString(b)
}
