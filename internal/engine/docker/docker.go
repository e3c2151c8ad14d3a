// Package docker asks a Docker engine what it knows of a container: its name, its image and its labels.
//
// It is the one door to the engine's API, and a narrow one: it lists containers and looks at images. To inspect the
// container would deadlock when an OCI hook waits for the answer, because the engine holds the container's lock while
// it starts it (seen with Docker 20.10 and 28.5); the calls that Lookup makes take no such lock. Details and Stats do
// inspect, and are for containers that run and ask about themselves. It changes nothing in the engine. It refuses to pass on what the image says of itself: labels are somebody's word only if whoever made the
// container gave them.
package docker

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"

	"github.com/moby/moby/client"
)

// timeout bounds one question. The list call was measured at 13 ms; a container's start waits for it.
const timeout = 3 * time.Second

// Engine is a Docker engine, or anything that speaks its API.
type Engine struct {
	host string
	name string // docker, or podman behind the same API
	api  *client.Client
}

// New returns the engine at host, such as unix:///var/run/docker.sock. It does not connect yet: the engine may start
// after the agent.
func New(host string) (*Engine, error) { return named("docker", host) }

// NewPodman returns a Podman service at host, which speaks the same API and locks the same way. It is for looking at
// containers, and not for Lookup, which waits there for the lock of a container that is being started.
func NewPodman(host string) (*Engine, error) { return named("podman", host) }

func named(name, host string) (*Engine, error) {
	api, err := client.New(client.WithHost(host), client.WithUserAgent("taskrole"), client.WithHTTPResponseHook(noteStream))
	if err != nil {
		return nil, fmt.Errorf("engine at %q: %w", host, err)
	}
	return &Engine{host: host, name: name, api: api}, nil
}

// Lookup returns the container with exactly this id. Without an error, Known says whether this engine has it.
// Otherwise the error is a fault: engine-unreachable.
func (e *Engine) Lookup(ctx context.Context, id container.ID) (container.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	unknown := container.Container{ID: id}
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{
		All:     true, // while its hook runs a container is "created", not "running"
		Filters: client.Filters{}.Add("id", string(id)),
	})
	if err != nil {
		return unknown, fault.Wrap(err, fault.EngineUnreachable,
			fmt.Sprintf("the engine at %s does not say what container %s is", e.host, id.Short()),
			"check that it runs and that engines.docker in the configuration names its socket")
	}
	for _, c := range list.Items {
		if c.ID != string(id) {
			continue // the filter matches prefixes
		}
		name := ""
		if len(c.Names) > 0 {
			name = strings.TrimPrefix(c.Names[0], "/")
		}
		return container.Container{
			ID: id, Name: name, Image: c.Image, Labels: e.given(ctx, c.ImageID, c.Labels), Network: network(c.HostConfig.NetworkMode),
			Known: true, Engine: e.name,
		}, nil
	}
	return unknown, nil
}

// network is the name of a network as people know it.
func network(mode string) string {
	if mode == "default" {
		return "bridge"
	}
	return mode
}

// given returns those of the labels that the container was given when it was made. The engine mixes them with those of
// the image, which are whatever its maker wrote there. One that both have alike counts as the image's, and where the
// engine does not say what the image has, for instance because the image is gone, no label is anybody's word.
func (e *Engine) given(ctx context.Context, imageID string, labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return labels
	}
	image, err := e.api.ImageInspect(ctx, imageID)
	if err != nil {
		return nil
	}
	given := maps.Clone(labels)
	maps.DeleteFunc(given, func(key, value string) bool {
		if image.Config == nil {
			return false
		}
		from, ok := image.Config.Labels[key]
		return ok && from == value
	})
	return given
}

// Close frees the connections.
func (e *Engine) Close() error { return e.api.Close() }
