// Package taskmeta tells a container about itself in the form of the ECS task metadata endpoint, versions 2, 3 and 4:
// one task that holds this one container. Collectors of metrics and traces that look for ECS find there what to call
// their data.
//
// It asks the engine, but only when the container itself asks, hence after its start; seldom, whatever is asked; and
// never for longer than the engine's own bound. It refuses to tell of other containers, and knows nothing of credentials:
// it is apart from endpoint so that what waits for an engine cannot hold up what must answer at once.
package taskmeta

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// Engine describes containers that run. Its errors are faults, and it bounds its own time.
type Engine interface {
	Details(ctx context.Context, id container.ID) (container.Details, error)
	// Stats returns one sample in Docker's form, without an earlier one in it.
	Stats(ctx context.Context, id container.ID) ([]byte, error)
}

// Options describe the container. All but Zone must be set.
type Options struct {
	Container container.Container
	Role      string // its name in the configuration, which is the task's family
	RoleARN   arn.Role
	Region    string
	Zone      func() string // availability zone, or ""; may be nil
	Engine    Engine
}

// How old an answer may be. Collectors ask every 10 to 60 seconds.
const (
	detailsAge = 10 * time.Second
	statsAge   = 2 * time.Second
)

// Task is the metadata of one container. It is safe for concurrent use.
type Task struct {
	o       Options
	details kept[container.Details]
	stats   kept[sample]
}

// New makes the metadata. It asks nobody.
func New(o Options) *Task {
	if o.Zone == nil {
		o.Zone = func() string { return "" }
	}
	t := &Task{o: o}
	t.details.init(detailsAge, func(ctx context.Context, _ container.Details) (container.Details, error) {
		return o.Engine.Details(ctx, o.Container.ID)
	})
	t.stats.init(statsAge, func(ctx context.Context, before sample) (sample, error) {
		b, err := o.Engine.Stats(ctx, o.Container.ID)
		if err != nil {
			return sample{}, err
		}
		s, err := newSample(b, before)
		if err != nil {
			return sample{}, fault.Wrap(err, fault.EngineUnreachable, "the engine's sample cannot be read", "try again in a moment")
		}
		return s, nil
	})
	return t
}

// Has says whether a path is one that Document knows. A path has single slashes and none at its end.
func (*Task) Has(path string) bool {
	_, _, ok := parse(path)
	return ok
}

// kind is what a path asks for.
type kind int

const (
	aTask kind = iota
	aContainer
	taskStats
	containerStats
)

// parse reads a path of one of the three versions. The identifier in it may be anything: whose metadata are told is
// decided by the listener.
func parse(path string) (version int, k kind, ok bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch parts[0] {
	case "v4", "v3":
		if len(parts) < 2 || parts[1] == "" {
			return 0, 0, false
		}
		version = int(parts[0][1] - '0')
		k, ok = map[string]kind{
			"": aContainer, "task": aTask, "taskWithTags": aTask, "stats": containerStats, "task/stats": taskStats,
		}[strings.Join(parts[2:], "/")]
		return version, k, ok
	case "v2":
		const withID = 3
		if len(parts) < withID-1 || len(parts) > withID {
			return 0, 0, false
		}
		one := len(parts) == withID
		switch parts[1] {
		case "metadata", "metadataWithTags":
			return 2, pick(one, aContainer, aTask), true //nolint:mnd // version 2
		case "stats":
			return 2, pick(one, containerStats, taskStats), true //nolint:mnd // version 2
		}
	}
	return 0, 0, false
}

func pick(one bool, a, b kind) kind {
	if one {
		return a
	}
	return b
}

// Document is what is at a path, as JSON. Faults: not-found for another path, engine-unreachable.
func (t *Task) Document(ctx context.Context, path string) ([]byte, error) {
	version, k, ok := parse(path)
	if !ok {
		return nil, fault.New(fault.NotFound, fmt.Sprintf("no task metadata are at %.80q", path), "ask for what ECS_CONTAINER_METADATA_URI_V4 says")
	}
	var v any
	switch k {
	case aTask, aContainer:
		d, err := t.details.get(ctx)
		if err != nil {
			return nil, err
		}
		v = t.container(d, version)
		if k == aTask {
			v = t.task(d, version)
		}
	case taskStats, containerStats:
		s, err := t.stats.get(ctx)
		if err != nil {
			return nil, err
		}
		v = s.document(version)
		if k == taskStats {
			v = map[container.ID]any{t.o.Container.ID: v}
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshal task metadata: %w", err)
	}
	return b, nil
}
