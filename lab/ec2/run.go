package ec2

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"taskrole/internal/container"
	"taskrole/lab/ec2/engineroot"
)

// ErrWay means that the engine does not offer the way in that was asked for.
var ErrWay = errors.New("this engine does not offer the way in")

// removePatience bounds the removal of containers at the end: one docker rm for all of them.
const removePatience = 20 * time.Second

// customNetwork is the name of the user-defined bridge behind NetworkCustom.
const customNetwork = "lab"

// Run runs a container with the client's run. Result has the client's exit status: the container's own, or 125 to 127
// when it did not start. When ctx ends, the container is removed.
func (d *Docker) Run(ctx context.Context, c Container) (Result, error) {
	if c.Name == "" {
		c.Name = "lab-" + rand.Text()[:12] // to find it again
	}
	if c.Way != "" && !slices.Contains(d.waysIn, c.Way) {
		return Result{}, fmt.Errorf("%s: %q: %w", d.Name(), c.Way, ErrWay)
	}
	arguments := d.runArgs
	if d.plan.Kind == engineroot.Containerd {
		arguments = d.ctrArgs
	}
	args, err := arguments(ctx, c)
	if err != nil {
		return Result{}, err
	}
	if c.Network == NetworkCustom {
		if err := d.makeCustom(ctx); err != nil {
			return Result{}, err
		}
	}
	r, err := d.Exec(ctx, args...)
	if d.plan.Kind == engineroot.Containerd && c.Detach && r.Exit == 0 {
		r.Stdout = []byte(c.Name + "\n") // the name is the id
	}
	if ctx.Err() != nil {
		// The client is dead, the container is not.
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), removePatience)
		defer cancel()
		err = errors.Join(err, d.Remove(after, c.Name))
	}
	return r, err
}

func (d *Docker) runArgs(_ context.Context, c Container) ([]string, error) {
	args := []string{"run", "--pull=never", "--name=" + c.Name}
	if d.plan.Kind == engineroot.Podman {
		args = []string{"run", "--pull=never", "--name=" + c.Name, "--cgroup-parent=" + d.plan.Containers()}
	}
	if c.Detach {
		args = append(args, "--detach")
	} else {
		args = append(args, "--rm")
	}
	switch c.Network {
	case "":
	case NetworkCustom:
		args = append(args, "--network="+customNetwork)
	default:
		args = append(args, "--network="+string(c.Network))
	}
	switch c.Way {
	case "":
	case container.WayShim:
		args = append(args, "--env=TASKROLE="+c.Role)
		if d.plan.Kind == engineroot.Podman {
			args = append([]string{"--runtime=taskrole"}, args...) // of podman, and not of its run
		} else {
			args = append(args, "--runtime=taskrole")
		}
	case container.WayCDI:
		args = append(args, "--device=taskrole/role="+c.Role)
	}
	for _, kv := range c.Env {
		args = append(args, "--env="+kv)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		args = append(args, "--label="+k+"="+c.Labels[k])
	}
	for _, host := range slices.Sorted(maps.Keys(c.Files)) {
		// Not --volume: that would make an empty directory of a file that is not there.
		args = append(args, "--mount=type=bind,src="+host+",dst="+c.Files[host]+",readonly")
	}
	return slices.Concat(args, c.Options, []string{c.Image}, c.Args), nil
}

// makeCustom makes the user-defined network once.
func (d *Docker) makeCustom(ctx context.Context) error {
	d.networks.Lock()
	defer d.networks.Unlock()
	if d.custom {
		return nil
	}
	if err := d.must(ctx, nil, "network", "create", customNetwork); err != nil {
		return err
	}
	d.custom = true
	return nil
}

// Remove removes a container, whatever it does.
func (d *Docker) Remove(ctx context.Context, names ...string) error {
	switch {
	case len(names) == 0:
		return nil
	case d.plan.Kind == engineroot.Containerd:
		return d.removeTasks(ctx, names)
	case d.plan.Kind == engineroot.Podman:
		return d.must(ctx, nil, append([]string{"rm", "--force", "--volumes", "--time=0"}, names...)...)
	default:
		return d.must(ctx, nil, append([]string{"rm", "--force", "--volumes"}, names...)...)
	}
}

// Exec runs the docker client with any arguments, inside the instance's network namespace and the engine's root. It
// gets no environment of ours. A command that failed is a Result, not an error.
func (d *Docker) Exec(ctx context.Context, args ...string) (Result, error) {
	return d.exec(ctx, nil, args...)
}

func (d *Docker) exec(ctx context.Context, stdin io.Reader, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, d.cli, args...)
	cmd.Env = []string{
		"PATH=" + engineroot.Path, "HOME=" + d.plan.Dir, "DOCKER_HOST=" + d.Host(), "CONTAINERD_ADDRESS=" + d.plan.Socket(),
	}
	cmd.Stdin = stdin
	// Podman's client is the engine itself: what it leaves running must end with the engine.
	return d.inside(ctx, cmd, string(d.plan.Kind)+" "+args[0], d.plan.Kind == engineroot.Podman)
}

// Shell runs a script by bash on the host as the engine sees it: in its root file system, of which every engine has a
// copy of its own, and in the instance's network. What it leaves running ends with the engine.
func (d *Docker) Shell(ctx context.Context, script string, env ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, "/bin/bash", "-s")
	cmd.Env = append([]string{"PATH=" + engineroot.Path, "HOME=/root", "DOCKER_HOST=" + d.Host()}, env...)
	cmd.Stdin = strings.NewReader(script)
	return d.inside(ctx, cmd, "bash", true)
}

// inside runs cmd in the instance's network namespace and the engine's root; with its it is one of the engine's own
// processes.
func (d *Docker) inside(ctx context.Context, cmd *exec.Cmd, what string, its bool) (Result, error) {
	cmd.Dir = "/"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	isolate(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if its {
		group, err := os.Open(filepath.Join(d.Root(), d.plan.Daemons()))
		if err != nil {
			return Result{}, fmt.Errorf("%s: find the engine's cgroup: %w", what, err)
		}
		defer func() { _ = group.Close() }()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	begin := time.Now()
	err := d.thread.do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	r := Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Elapsed: time.Since(begin)}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return r, fmt.Errorf("%s: %w", what, err)
	}
	return r, nil
}

// must is exec for commands that are expected to succeed.
func (d *Docker) must(ctx context.Context, stdin io.Reader, args ...string) error {
	r, err := d.exec(ctx, stdin, args...)
	if err == nil && r.Exit != 0 {
		err = fmt.Errorf("%s %s: exit status %d: %s", d.plan.Kind, args[0], r.Exit, bytes.TrimSpace(r.Stderr))
	}
	return err
}

// ImportImage makes an image of a root file system in a tar stream; changes are Dockerfile instructions, such as
// `ENTRYPOINT ["/probe"]`.
func (d *Docker) ImportImage(ctx context.Context, name string, rootfs io.Reader, changes ...string) error {
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change="+c)
	}
	return d.must(ctx, rootfs, append(args, "-", name)...)
}

// ImportFiles makes an image of single files: path inside to path on this machine. Nothing else is in it but an
// empty /tmp, so programs must be static.
func (d *Docker) ImportFiles(ctx context.Context, name string, files map[string]string, changes ...string) error {
	if d.plan.Kind == engineroot.Containerd {
		return d.makeRoot(name, files, changes)
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := writeImage(w, files)
		done <- errors.Join(err, w.CloseWithError(err))
	}()
	err := d.ImportImage(ctx, name, r, changes...)
	_ = r.CloseWithError(io.ErrClosedPipe) // lets the writer go when docker did not read to the end
	if werr := <-done; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return fmt.Errorf("make image %s: %w", name, werr)
	}
	return err
}

func writeImage(w io.Writer, files map[string]string) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return err
	}
	made := map[string]bool{"tmp": true, ".": true}
	for _, inside := range slices.Sorted(maps.Keys(files)) {
		if err := addFile(t, made, strings.TrimPrefix(path.Clean("/"+inside), "/"), files[inside]); err != nil {
			return err
		}
	}
	return t.Close()
}

func addFile(t *tar.Writer, made map[string]bool, name, source string) error {
	var parents []string
	for dir := path.Dir(name); !made[dir]; dir = path.Dir(dir) {
		made[dir] = true
		parents = append(parents, dir)
	}
	for _, dir := range slices.Backward(parents) {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(st.Mode().Perm()), Size: st.Size()})
	if err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// removeAll removes every container in one go, without waiting for any to stop by itself.
func (d *Docker) removeAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), removePatience)
	defer cancel()
	list := []string{"ps", "--all", "--quiet", "--no-trunc"}
	switch d.plan.Kind {
	case engineroot.Containerd:
		return nil // nothing of it outlives its processes
	case engineroot.Podman:
		if err := d.must(ctx, nil, "pod", "rm", "--all", "--force", "--time=0"); err != nil {
			return err
		}
	case engineroot.Docker:
	}
	r, err := d.exec(ctx, nil, list...)
	if err != nil {
		return err
	}
	return d.Remove(ctx, strings.Fields(string(r.Stdout))...)
}
