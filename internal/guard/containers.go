package guard

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"taskrole/internal/cgroups"
)

// scan learns of the containers there are now. The caller holds the lock.
func (g *Guard) scan() error {
	if g.mount == "" || g.found != nil {
		return g.apply()
	}
	found, err := cgroups.Scan(g.mount, g.own)
	if err != nil {
		return err
	}
	g.found = found
	return g.apply()
}

// apply tells the table which cgroups are containers, and which of them keep access. One whose name is not known yet
// does not. The caller holds the lock.
func (g *Guard) apply() error {
	refused, excepted := map[uint64]bool{}, map[uint64]bool{}
	for id, c := range g.found {
		refused[id] = true
		if name := g.called[c.Container]; name != "" && g.on != nil && g.on.Excepted != nil && g.on.Excepted(name) {
			excepted[id] = true
		}
	}
	return g.table.Cgroups(refused, excepted)
}

// watchCgroups follows containers as they come and go.
func (g *Guard) watchCgroups(ctx context.Context) error {
	return cgroups.Watch(ctx, g.mount, g.own, func(found map[uint64]cgroups.Cgroup) {
		g.mu.Lock()
		g.remember(found)
		g.found = found
		living := map[string]bool{}
		for _, c := range found {
			living[c.Container] = true
		}
		for id := range g.called {
			if !living[id] {
				delete(g.called, id)
			}
		}
		err := g.apply()
		g.mu.Unlock()
		if err != nil {
			g.log.ErrorContext(ctx, "the guard cannot be told of a container", slog.String("error", err.Error()))
		}
		select {
		case g.unnamed <- struct{}{}:
		default:
		}
	})
}

// remember keeps those of the containers that have gone for a while: who asks and ends at once is told of afterwards. The
// caller holds the lock.
func (g *Guard) remember(found map[uint64]cgroups.Cgroup) {
	now := time.Now()
	maps.DeleteFunc(g.past, func(_ uint64, p former) bool { return now.Sub(p.at) > keepPast })
	for id, c := range g.found {
		if _, still := found[id]; !still {
			g.past[id] = former{c, g.called[c.Container], now}
		}
	}
}

// former is a container that has gone.
type former struct {
	cgroups.Cgroup
	name string
	at   time.Time
}

// keepPast is how long one is remembered.
const keepPast = 10 * time.Second

// nameOn finds the names of new containers until ctx ends. It is apart from watchCgroups, because an engine may take
// its time, and meanwhile the next container must be refused.
func (g *Guard) nameOn(ctx context.Context) {
	tick := time.NewTicker(again) // for those that could not be asked about
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.unnamed:
		}
		g.nameAll(ctx)
	}
}

// nameAll asks what containers are called, to know who is excepted, and to say who asked when they have gone.
func (g *Guard) nameAll(ctx context.Context) {
	g.mu.Lock()
	var unknown []string
	for _, c := range g.found {
		if _, known := g.called[c.Container]; c.Container != "" && !known {
			unknown = append(unknown, c.Container)
		}
	}
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	learnt := map[string]string{}
	for _, id := range unknown {
		if name, err := g.names.Name(ctx, id); err == nil {
			learnt[id] = name
		}
	}
	if len(learnt) == 0 {
		return
	}
	g.mu.Lock()
	for _, c := range g.found {
		if name, ok := learnt[c.Container]; ok {
			g.called[c.Container] = name
		}
	}
	err := g.apply()
	g.mu.Unlock()
	if err != nil {
		g.log.ErrorContext(ctx, "the guard cannot be told of an exception", slog.String("error", err.Error()))
	}
}

// tellOn says who asked, until ctx ends.
func (g *Guard) tellOn(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.tell(ctx)
		}
	}
}
