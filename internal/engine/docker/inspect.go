package docker

import (
	"context"
	"fmt"
	"strings"

	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/secret"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// Inspected is what the engine knows of a container, whether it runs or not.
type Inspected struct {
	container.Container

	PID     int    // of the first process in the engine's pid namespace; 0: it does not run
	Status  string // as the engine has it
	Error   string // why it did not start, in the words of the runtime and its hooks
	Network string // mode
	// Env is the environment that the engine has written down. The process's own may differ.
	Env []secret.Value
	// Devices are the CDI devices asked for.
	Devices []string
	Mounts  []Mount
	ImageID string
}

// Mount is a part of the container's files that comes from the host.
type Mount struct{ Source, Destination string }

// Inspect returns what the engine knows of the container with this name or id. It waits for the container's lock, so
// that it must never be called from a hook. The error is a fault: not-found or engine-unreachable.
func (e *Engine) Inspect(ctx context.Context, ref string) (Inspected, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
	if err != nil {
		if errdefs.IsNotFound(err) {
			return Inspected{}, fault.Wrap(err, fault.NotFound, fmt.Sprintf("the engine at %s has no container %q", e.host, ref),
				`"`+e.name+` ps --all" lists what there is; "--pid" looks at a process of any engine`)
		}
		return Inspected{}, fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not describe container %q", e.host, ref),
			`check that it runs; "--pid" needs no engine`)
	}
	c := r.Container
	if c.State == nil || c.HostConfig == nil || c.Config == nil {
		return Inspected{}, fault.Wrap(errAnother, fault.EngineUnreachable, fmt.Sprintf("the engine at %s describes container %q in part", e.host, ref), "try again")
	}
	i := Inspected{
		Container: container.Container{
			ID: container.ID(c.ID), Name: strings.TrimPrefix(c.Name, "/"), Image: c.Config.Image, Known: true, Engine: e.name,
			Labels: e.given(ctx, c.Image, c.Config.Labels),
		},
		PID: c.State.Pid, Status: string(c.State.Status), Error: c.State.Error, Network: string(c.HostConfig.NetworkMode), ImageID: c.Image,
	}
	for _, kv := range c.Config.Env {
		i.Env = append(i.Env, secret.New(kv))
	}
	for _, d := range c.HostConfig.DeviceRequests {
		if d.Driver == "cdi" {
			i.Devices = append(i.Devices, d.DeviceIDs...)
		}
	}
	for _, m := range c.Mounts {
		i.Mounts = append(i.Mounts, Mount{Source: m.Source, Destination: m.Destination})
	}
	return i, nil
}
