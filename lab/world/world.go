// Package world brings up everything the demonstration plays in: the simulated account and instance, a container
// engine inside it, and the real agent with a configuration for it. It takes it all down again.
//
// It is for demo, up, and tests that want the whole. It knows no row of the table, and refuses to use anything of
// the machine beyond its programs: never the user's Docker, never the user's agent, never the user's credentials.
package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/engine"
)

// Engine is the kind of container engine.
type Engine string

// The kinds.
const (
	Auto      Engine = "auto"      // Docker when dockerd is installed, else plain namespaces
	Docker    Engine = "docker"    // a private daemon of the machine's Docker, or of the one in Options.DockerRoot
	Namespace Engine = "namespace" // plain Linux namespaces
)

// Roles of the agent's configuration. Both are the account's task role; the second has a way out for containers
// without a network.
const (
	Role         = "s3-reader"
	IsolatedRole = "s3-reader-isolated"
)

// probeInside is where containers find the client.
const probeInside = "/taskrole-lab-probe"

// Options say which world; the zero value is one with an engine of kind Auto and our own client's image.
type Options struct {
	Engine Engine
	// DockerRoot is a root file system with a Docker in it, to be used instead of the machine's.
	DockerRoot string
	// Load is a file made by docker save, whose images the private daemon gets.
	Load string
	// Image is an image of the private daemon to put the client into; empty is an image with nothing else in it.
	Image string
	// Logger gets what the lab's own servers complain about; nil drops it.
	Logger *slog.Logger
	// Progress is told of every step; nil is nobody.
	Progress func(string)
}

// World is what was brought up.
type World struct {
	Cloud    *cloud.Cloud
	Instance *ec2.Instance
	Engine   ec2.Engine
	Docker   *ec2.Docker // nil with plain namespaces
	Way      container.Way
	Programs Programs
	Config   string // path of the agent's configuration
	Socket   string // of the agent
	AgentLog string

	dir       string
	image     string
	agent     *exec.Cmd
	agentLog  *os.File
	agentDone chan struct{} // closed when the agent has ended
}

// Launch brings a world up. When ctx ends during that, or anything fails, nothing is left; afterwards Close ends it.
func Launch(ctx context.Context, o Options) (_ *World, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	kind, err := choose(o)
	if err != nil {
		return nil, err
	}
	w := &World{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	// Short, because sockets are in it; not the instance's own, because the programs are there before it.
	if w.dir, err = os.MkdirTemp("", "tr-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	for _, d := range []string{"bin", "cdi", "run"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make a directory: %w", err)
		}
	}
	if err := os.Chmod(w.dir, 0o755); err != nil {
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	w.Socket, w.Config = filepath.Join(w.dir, "run", "agent.sock"), filepath.Join(w.dir, "config.yaml")
	if w.Programs, err = FindPrograms(ctx, filepath.Join(w.dir, "bin"), o.Progress); err != nil {
		return nil, err
	}
	if err := w.launch(ctx, o, kind); err != nil {
		return nil, err
	}
	return w, ctx.Err()
}

// launch is Launch from the instance on.
func (w *World) launch(ctx context.Context, o Options, kind Engine) (err error) {
	o.Progress("starting the simulated instance")
	//nolint:contextcheck // it works in memory only
	if w.Cloud, err = cloud.New(cloud.Options{HopLimit: 2, Logger: o.Logger}); err != nil {
		return fmt.Errorf("make the account: %w", err)
	}
	if w.Instance, err = ec2.Launch(ctx, ec2.Options{Cloud: w.Cloud, Dir: filepath.Join(w.dir, "i"), Logger: o.Logger}); err != nil {
		return fmt.Errorf("launch the instance: %w", err)
	}
	if kind == Docker {
		o.Progress("starting a private docker in it")
		err = w.startDocker(ctx, o)
	} else {
		err = w.startNamespaces() //nolint:contextcheck // its clean-up must not end with ctx
	}
	if err != nil {
		return err
	}
	o.Progress("starting the agent")
	return w.startAgent(ctx)
}

// choose settles Auto, and refuses what cannot be.
func choose(o Options) (Engine, error) {
	kind := o.Engine
	_, missing := ec2.FindDocker(o.DockerRoot)
	if kind == Auto || kind == "" {
		kind = Docker
		if missing != nil {
			kind = Namespace
		}
	}
	switch {
	case kind != Docker && kind != Namespace:
		return "", fault.New(fault.Usage, fmt.Sprintf("there is no engine %q", o.Engine), "choose docker, namespace or auto")
	case kind == Docker && missing != nil:
		return "", fault.Wrap(missing, fault.Usage, "docker is not installed: "+missing.Error(), "install it, or choose --engine namespace")
	case kind == Namespace && (o.Image != "" || o.Load != ""):
		return "", fault.New(fault.Usage, "plain namespaces have no images", "leave --image and --load away, or install docker")
	}
	return kind, nil
}

func (w *World) spec() string { return filepath.Join(w.dir, "cdi", "taskrole.json") }

func (w *World) startNamespaces() (err error) {
	w.Way = container.WayShim
	e, err := engine.New(engine.Options{
		Instance: w.Instance, Dir: filepath.Join(w.dir, "e"), Runtime: w.Programs.Lab, Shim: w.Programs.Runtime, Spec: w.spec(),
	})
	if err != nil {
		return fmt.Errorf("make the namespace engine: %w", err)
	}
	w.Engine = e
	return nil
}

func (w *World) startDocker(ctx context.Context, o Options) (err error) {
	w.Docker, err = ec2.NewDocker(ctx, w.Instance, ec2.DockerOptions{
		Root: o.DockerRoot, Runtime: w.Programs.Runtime, CDIDir: filepath.Dir(w.spec()), Spec: w.spec(), SocketDir: filepath.Dir(w.Socket),
		Share: []string{filepath.Dir(w.Programs.Probe)}, CgroupV2: true,
	})
	if err != nil {
		return err
	}
	w.Engine = w.Docker
	w.Way = container.WayShim
	if slices.Contains(w.Docker.WaysIn(), container.WayCDI) {
		w.Way = container.WayCDI
	}
	if o.Load != "" {
		if err := w.load(ctx, o.Load); err != nil {
			return err
		}
	}
	return w.makeImage(ctx, o.Image)
}

// Ours is the name of the image with the client in it.
const Ours = "taskrole-lab-probe"

func (w *World) load(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	return w.docker(ctx, "load", "--input="+file)
}

// makeImage puts the client into an image as its entry point. A file mounted into each container would do as well for
// the file, but nothing else overrides an image's own entry point as reliably as an image.
func (w *World) makeImage(ctx context.Context, base string) error {
	w.image = Ours
	entry := `ENTRYPOINT ["` + probeInside + `"]`
	if base == "" {
		return w.Docker.ImportFiles(ctx, w.image, map[string]string{probeInside: w.Programs.Probe}, entry)
	}
	const name = "taskrole-lab-make-image"
	for _, args := range [][]string{
		{"create", "--pull=never", "--name=" + name, base, "true"},
		{"cp", w.Programs.Probe, name + ":" + probeInside},
		{"commit", "--change=" + entry, "--change=CMD []", name, w.image},
		{"rm", name},
	} {
		if err := w.docker(ctx, args...); err != nil {
			return fmt.Errorf("put the client into image %q (docker save it and name the file with --load): %w", base, err)
		}
	}
	return nil
}

func (w *World) docker(ctx context.Context, args ...string) error {
	r, err := w.Docker.Exec(ctx, args...)
	if err == nil && r.Exit != 0 {
		err = fmt.Errorf("docker %s: %s", args[0], bytes.TrimSpace(r.Stderr))
	}
	return err
}

// Container is what containers of this world have in common: the client, and how it finds the account.
func (w *World) Container() ec2.Container {
	c := ec2.Container{Env: w.clientEnv()}
	if w.Docker != nil {
		c.Image = w.image
		return c
	}
	c.Files = map[string]string{w.Programs.Probe: probeInside}
	c.Args = []string{probeInside}
	return c
}

// clientEnv is what a client needs to know of a simulated account; at AWS it needs nothing.
func (w *World) clientEnv() []string {
	return []string{"AWS_ENDPOINT_URL=" + w.Instance.ServicesURL(), "AWS_REGION=" + w.Cloud.Region()}
}

// Host runs the client on the instance itself.
func (w *World) Host(ctx context.Context, args ...string) (ec2.Result, error) {
	cmd := exec.CommandContext(ctx, w.Programs.Probe, args...)
	cmd.Env = append(w.clientEnv(), "HOME=/nonexistent") // no profile of the person at the keyboard
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := w.Instance.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = nil
	}
	if err != nil {
		return ec2.Result{}, fmt.Errorf("run the client on the instance: %w", err)
	}
	return ec2.Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Elapsed: time.Since(begin)}, ctx.Err()
}

// Close takes everything down: containers, agent, engine, instance, files. Calling it again is harmless.
func (w *World) Close() error {
	var errs []error
	if w.Engine != nil {
		errs = append(errs, w.Engine.Close())
	}
	w.stopAgent()
	if w.Instance != nil {
		errs = append(errs, w.Instance.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
