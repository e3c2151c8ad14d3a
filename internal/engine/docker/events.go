package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"

	"github.com/moby/moby/client"
)

// Event is something that happened to a container.
type Event struct {
	Kind EventKind
	ID   container.ID
}

// EventKind is what happened.
type EventKind string

// The kinds that are followed. Others, such as those of each docker exec, are not sent.
const (
	Created EventKind = "create"  // its process does not exist yet
	Started EventKind = "start"   // its process runs already, by some milliseconds
	Died    EventKind = "die"     // its process has ended; it may be started again
	Removed EventKind = "destroy" // it never comes back
)

// replay is how far back events are asked for. The engine answers before it listens itself, and what happens in between
// is neither in its list nor in its events: with this it is in the events. Whoever follows gets some of them twice.
const replay = 2 * time.Second

// errEnded means that the engine has ended the stream, as it does when it stops.
var errEnded = errors.New("the engine has closed the stream of events")

// streamKey is under which a request for events has where to note that the engine has begun to answer it.
type streamKey struct{}

// noteStream notes it. The client itself says that the request is over, and only then, and from another goroutine, that it
// has failed.
func noteStream(r *http.Response) {
	begun, ok := r.Request.Context().Value(streamKey{}).(*atomic.Bool)
	if ok && r.StatusCode == http.StatusOK && path.Base(r.Request.URL.Path) == "events" {
		begun.Store(true)
	}
}

// Follow calls handle for each event of the containers that have the label, one after the other, until ctx ends or the
// engine does. Before the first it calls connected: from then on nothing is missed, so that whoever lists the
// containers then knows of all. Labels of the image count here as if they were the container's; Lookup tells them apart.
// The error is never nil: a fault (engine-unreachable), or that of ctx.
func (e *Engine) Follow(ctx context.Context, label string, connected func(), handle func(Event)) error {
	begun := new(atomic.Bool)
	ctx, cancel := context.WithCancel(context.WithValue(ctx, streamKey{}, begun))
	defer cancel() // ends the client's goroutine
	filters := client.Filters{}.Add("type", "container").Add("label", label)
	for _, k := range []EventKind{Created, Started, Died, Removed} {
		filters = filters.Add("event", string(k))
	}
	stream := e.api.Events(ctx, client.EventsListOptions{
		Since: strconv.FormatInt(time.Now().Add(-replay).Unix(), 10), Filters: filters,
	})
	if !begun.Load() {
		return e.lost(<-stream.Err)
	}
	connected()
	for {
		select {
		case m := <-stream.Messages:
			if id := container.ID(m.Actor.ID); id.Valid() {
				handle(Event{Kind: EventKind(m.Action), ID: id})
			}
		case err := <-stream.Err:
			return e.lost(err)
		}
	}
}

func (e *Engine) lost(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = errEnded
	}
	return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not tell what happens to its containers", e.host),
		"check that it runs and that engines.docker in the configuration names its socket")
}

// Labelled is a container that has the label.
type Labelled struct {
	ID      container.ID
	Running bool // paused ones, too
}

// Labelled returns the containers that have the label, be it their own or the image's. The error is a fault:
// engine-unreachable.
func (e *Engine) Labelled(ctx context.Context, label string) ([]Labelled, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", label)})
	if err != nil {
		return nil, fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not list its containers", e.host),
			"check that it runs and that engines.docker in the configuration names its socket")
	}
	var all []Labelled
	for _, c := range list.Items {
		if id := container.ID(c.ID); id.Valid() {
			all = append(all, Labelled{ID: id, Running: slices.Contains([]string{"running", "paused", "restarting"}, string(c.State))})
		}
	}
	return all, nil
}

// PID returns the number of the container's first process, or 0 if it does not run. It must never be asked for while the
// container's hook waits: the engine holds the container's lock then. The error is a fault: engine-unreachable.
func (e *Engine) PID(ctx context.Context, id container.ID) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ContainerInspect(ctx, string(id), client.ContainerInspectOptions{})
	if err != nil {
		return 0, e.mute(err, id)
	}
	if c := r.Container; c.ID != string(id) || c.State == nil {
		return 0, e.mute(errAnother, id)
	}
	if !r.Container.State.Running {
		return 0, nil
	}
	return r.Container.State.Pid, nil
}

// Hooked says whether the container gets a role from its start by one of the other ways: a CDI device of ours, or the
// variable that the runtime looks for, which may be in vain. It must never be asked for while the container's hook
// waits. The error is a fault: engine-unreachable.
func (e *Engine) Hooked(ctx context.Context, id container.ID) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ContainerInspect(ctx, string(id), client.ContainerInspectOptions{})
	if err != nil {
		return false, e.mute(err, id)
	}
	c := r.Container
	if c.ID != string(id) || c.HostConfig == nil || c.Config == nil {
		return false, e.mute(errAnother, id)
	}
	const device, variable = "taskrole/", "TASKROLE="
	ours := func(name string) bool { return strings.HasPrefix(name, device) }
	for _, d := range c.HostConfig.DeviceRequests {
		if slices.ContainsFunc(d.DeviceIDs, ours) {
			return true, nil
		}
	}
	for _, d := range c.HostConfig.Devices {
		if ours(d.PathOnHost) {
			return true, nil
		}
	}
	return slices.ContainsFunc(c.Config.Env, func(kv string) bool { return strings.HasPrefix(kv, variable) }), nil
}
