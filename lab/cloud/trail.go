package cloud

import (
	"maps"
	"slices"
	"sync"

	"taskrole/lab/iam"
)

// lastCalls is how many calls the trail remembers one by one.
const lastCalls = 200

// Calls is the audit trail: how often each action of each service was called, refused calls included, and the last
// calls, oldest first.
type Calls struct {
	Counts map[string]map[string]int `json:"counts"`
	Last   []iam.Event               `json:"last"`
}

type trail struct {
	mu     sync.Mutex // guards what follows
	counts map[string]map[string]int
	last   []iam.Event
}

func (t *trail) add(e iam.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	actions := t.counts[e.Service]
	if actions == nil {
		actions = map[string]int{}
		t.counts[e.Service] = actions
	}
	if _, known := actions[e.Action]; !known && len(actions) >= lastCalls {
		e.Action = "" // names come from clients: they must not fill the memory
	}
	actions[e.Action]++
	if len(t.last) >= lastCalls {
		t.last = slices.Delete(t.last, 0, 1)
	}
	t.last = append(t.last, e)
}

func (t *trail) calls() Calls {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Calls{Counts: map[string]map[string]int{}, Last: slices.Clone(t.last)}
	for service, actions := range t.counts {
		c.Counts[service] = maps.Clone(actions)
	}
	return c
}

func (t *trail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.counts)
	t.last = nil
}
