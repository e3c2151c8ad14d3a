package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"taskrole/internal/container"
	"taskrole/internal/fault"

	"github.com/moby/moby/client"
)

// maxStats bounds a sample: some kB, with a line for each processor and block device.
const maxStats = 1 << 20

// errAnother means that the engine described something else than was asked for.
var errAnother = errors.New("the answer is not this container's")

// Details returns what the engine knows of a container that runs. It must never be asked for while the container's hook
// waits: the engine holds the container's lock then. The error is a fault: engine-unreachable.
func (e *Engine) Details(ctx context.Context, id container.ID) (container.Details, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ContainerInspect(ctx, string(id), client.ContainerInspectOptions{})
	if err != nil {
		return container.Details{}, e.mute(err, id)
	}
	if c := r.Container; c.ID != string(id) || c.State == nil || c.HostConfig == nil || c.NetworkSettings == nil {
		return container.Details{}, e.mute(errAnother, id)
	}
	return details(r), nil
}

// Stats returns one sample of what the container uses, in the engine's own form, at once. The sample has no earlier one
// in it. It must not be asked for while the container's hook waits. The error is a fault: engine-unreachable.
func (e *Engine) Stats(ctx context.Context, id container.ID) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ContainerStats(ctx, string(id), client.ContainerStatsOptions{})
	if err != nil {
		return nil, e.mute(err, id)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxStats+1))
	if err != nil || len(b) > maxStats {
		return nil, e.mute(fmt.Errorf("read a sample of %d bytes: %w", len(b), err), id)
	}
	return b, nil
}

func (e *Engine) mute(err error, id container.ID) error {
	return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not describe container %s", e.host, id.Short()),
		"try again in a moment")
}

func details(r client.ContainerInspectResult) container.Details {
	const nano = 1e9
	c := r.Container
	d := container.Details{
		ImageID: c.Image, Status: string(c.State.Status), Created: c.Created,
		LogDriver: c.HostConfig.LogConfig.Type, NetworkMode: string(c.HostConfig.NetworkMode),
		CPUShares: c.HostConfig.CPUShares, CPUs: float64(c.HostConfig.NanoCPUs) / nano, Memory: c.HostConfig.Memory,
	}
	if !strings.HasPrefix(c.State.StartedAt, "0001-") { // never
		d.Started = c.State.StartedAt
	}
	if d.LogDriver == "awslogs" {
		d.AWSLogs = maps.Clone(c.HostConfig.LogConfig.Config)
	}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		if n := c.NetworkSettings.Networks[name]; n != nil {
			d.Networks = append(d.Networks, container.Network{Name: name, IPv4: n.IPAddress, IPv6: n.GlobalIPv6Address, MAC: n.MacAddress.String()})
		}
	}
	return d
}
