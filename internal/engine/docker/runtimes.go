package docker

import (
	"context"
	"fmt"
	"time"

	"taskrole/internal/fault"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// surveyTimeout bounds the question about all containers, which is one call for each.
const surveyTimeout = time.Minute

// ByRuntime returns the names of all containers, also those that are stopped, that the OCI runtime of this name starts.
// It inspects each, so it must never be asked from a hook. The error is a fault: engine-unreachable.
func (e *Engine) ByRuntime(ctx context.Context, runtime string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	silent := func(err error) error {
		return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not answer", e.host), "check that it runs")
	}
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, silent(err)
	}
	var names []string
	for _, c := range list.Items {
		r, err := e.api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, silent(err)
		}
		if r.Container.HostConfig != nil && r.Container.HostConfig.Runtime == runtime {
			names = append(names, nameOf(c.Names, c.ID))
		}
	}
	return names, nil
}

// nameOf is what a person calls the container.
func nameOf(names []string, id string) string {
	const short = 12
	if len(names) > 0 && len(names[0]) > 1 {
		return names[0][1:] // behind the slash
	}
	return id[:min(short, len(id))]
}
