package agent

import (
	"context"
	"slices"
	"sync"

	"taskrole/internal/attach"
	"taskrole/internal/broker"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/endpoint"
)

// life is what people may want to know of a container that is served, beyond what attach knows.
type life struct {
	lease  *broker.Lease
	visits *endpoint.Visits
}

// served are the containers that are served, by id. The zero one is ready.
type served struct {
	mu sync.Mutex // guards by
	by map[container.ID]*life
}

// add returns what takes the container out again. An id that came again meanwhile stays.
func (s *served) add(id container.ID, l *life) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[container.ID]*life{}
	}
	s.by[id] = l
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.by[id] == l {
			delete(s.by, id)
		}
	}
}

func (s *served) get(id container.ID) *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[id]
}

// refusals are the containers that the hook brought in vain, the last ones. The zero one is ready.
type refusals struct {
	mu  sync.Mutex        // guards all
	all []control.Refusal // oldest first
}

// note remembers a refusal. One container in a restart loop is one entry.
func (l *refusals) note(r control.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Count = 1
	if i := slices.IndexFunc(l.all, func(x control.Refusal) bool { return x.ID == r.ID && x.Code == r.Code }); i >= 0 {
		r.Count += l.all[i].Count
		l.all = slices.Delete(l.all, i, i+1)
	}
	if len(l.all) >= control.MaxRefusals {
		l.all = slices.Delete(l.all, 0, 1)
	}
	l.all = append(l.all, r)
}

func (l *refusals) list() []control.Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// List returns the attached containers and the last refusals.
func (a *Agent) List(context.Context) (control.ListReply, error) {
	var reply control.ListReply
	for _, c := range a.attacher.Look() {
		reply.Containers = append(reply.Containers, a.describe(c))
	}
	reply.Refusals = a.refusals.list()
	if a.late != nil {
		for _, r := range a.late.refused() {
			reply.Refusals = append(reply.Refusals, control.Refusal{
				Time: r.Since, Count: 1, ID: r.Container.ID, Name: r.Container.Name, Role: r.Role, Way: container.WayLabel, Running: true,
				Trouble: *control.NewTrouble(r.Fault),
			})
		}
	}
	slices.SortStableFunc(reply.Refusals, func(x, y control.Refusal) int { return y.Time.Compare(x.Time) })
	return reply, nil
}

func (a *Agent) describe(c attach.Attached) control.Attached {
	d := control.Attached{
		ID: c.Container.ID, Name: c.Container.Name, Image: c.Container.Image, Network: c.Container.Network,
		Role: c.Role, RoleARN: c.RoleARN, Session: c.Session, Way: c.Way,
		PID: c.PID, Since: c.Since, Endpoints: texts(c.Addresses), Host: c.Host, Shared: c.Shared, Missing: c.Missing,
	}
	l := a.served.get(c.Container.ID)
	if l == nil {
		return d
	}
	d.Taken, d.Client = l.visits.Last()
	s := l.lease.State()
	d.Fetched, d.Expires = s.Since, s.Expires
	if s.Trouble != nil {
		d.Trouble = control.NewTrouble(s.Trouble)
	}
	return d
}
