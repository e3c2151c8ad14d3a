package ec2

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"taskrole/internal/container"
	"taskrole/lab/ec2/engineroot"
)

// ErrNetwork means that the engine cannot connect a container in the way that was asked for.
var ErrNetwork = errors.New("this engine does not offer the network")

// askContainerd returns the daemon's version; ctr waits for its socket itself.
func (d *Docker) askContainerd(ctx context.Context) (string, error) {
	r, err := d.exec(ctx, nil, "version")
	if err != nil {
		return "", err
	}
	_, server, _ := strings.Cut(string(r.Stdout), "Server:")
	for line := range strings.Lines(server) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Version:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("ctr does not tell containerd's version: %s", bytes.TrimSpace(r.Stderr))
}

// ctrArgs is ctr run. Images are directories of ours: importing and unpacking would show nothing that matters here.
func (d *Docker) ctrArgs(ctx context.Context, c Container) ([]string, error) {
	args := []string{"run", "--rootfs", "--cpu-shares=0", "--cgroup=" + d.plan.Containers() + "/" + c.Name}
	if c.Detach {
		args = append(args, "--detach", "--null-io")
	} else {
		args = append(args, "--rm")
	}
	network, err := d.ctrNetwork(ctx, c.Network)
	if err != nil {
		return nil, err
	}
	args = append(args, network...)
	switch c.Way {
	case "":
	case container.WayShim:
		args = append(args, "--runc-binary="+d.plan.Runtime, "--env=TASKROLE="+c.Role)
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
		args = append(args, "--mount=type=bind,src="+host+",dst="+c.Files[host]+",options=rbind:ro")
	}
	for _, o := range c.Options {
		args = append(args, strings.Replace(o, "--cap-drop=", "--cap-drop=CAP_", 1))
	}
	args = append(args, d.rootOf(c.Image), c.Name)
	return append(append(args, d.entries[c.Image]...), c.Args...), nil
}

// ExecIn runs a command in a running container. Where the client can do that, env is added to the environment; ctr
// gives the command what the container was started with.
func (d *Docker) ExecIn(ctx context.Context, name string, env []string, args ...string) (Result, error) {
	if d.plan.Kind == engineroot.Containerd {
		return d.exec(ctx, nil, append([]string{"task", "exec", "--exec-id=" + rand.Text(), name}, args...)...)
	}
	words := []string{"exec"}
	for _, kv := range env {
		words = append(words, "--env="+kv)
	}
	return d.exec(ctx, nil, append(append(words, name), args...)...)
}

// ctrNetwork is how ctr is told; it makes a namespace with lo alone when told nothing.
func (d *Docker) ctrNetwork(ctx context.Context, n Network) ([]string, error) {
	other, shared := strings.CutPrefix(string(n), "container:")
	switch {
	case shared:
		pid, err := d.taskPID(ctx, other)
		return []string{"--with-ns=network:/proc/" + pid + "/ns/net"}, err
	case n == NetworkNone:
		return nil, nil
	case n == NetworkHost:
		return []string{"--net-host"}, nil
	case n == NetworkBridge || n == "":
		return []string{"--cni"}, nil
	default:
		return nil, fmt.Errorf("%s: %q: %w", d.Name(), n, ErrNetwork)
	}
}

// taskPID is the first process of a container, as ctr task ls prints it.
func (d *Docker) taskPID(ctx context.Context, name string) (string, error) {
	r, err := d.exec(ctx, nil, "task", "ls")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(r.Stdout)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("%s runs no container %s: %s", d.Name(), name, bytes.TrimSpace(r.Stderr))
}

// removeTasks ends and removes containers; one that has ended has no task any more.
func (d *Docker) removeTasks(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, err := d.exec(ctx, nil, "task", "rm", "--force", name); err != nil {
			return err
		}
	}
	return d.must(ctx, nil, append([]string{"container", "rm"}, names...)...)
}

func (d *Docker) rootOf(image string) string { return filepath.Join(d.plan.Dir, "images", image) }

// makeRoot makes the directory that is an image here. Of the changes it knows the entry point.
func (d *Docker) makeRoot(image string, files map[string]string, changes []string) error {
	for _, c := range changes {
		if text, ok := strings.CutPrefix(c, "ENTRYPOINT "); ok {
			var words []string
			if err := json.Unmarshal([]byte(text), &words); err != nil {
				return fmt.Errorf("make image %s: %w", image, err)
			}
			d.entries[image] = words
		}
	}
	for inside, source := range files {
		if err := copyFile(source, filepath.Join(d.rootOf(image), inside)); err != nil {
			return fmt.Errorf("make image %s: %w", image, err)
		}
	}
	return nil
}

func copyFile(source, target string) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode().Perm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
