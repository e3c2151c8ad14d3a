// Package guard holds containers off the host's own instance metadata service: it keeps the table of package nft in
// place and says who asked.
//
// It refuses to be the lock itself, which is in the kernel and stays closed when the agent ends. It is apart from the
// agent because it needs nothing of roles and credentials, and from nft because what keeps a table right is not what a
// table is.
package guard

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"taskrole/internal/cgroups"
	"taskrole/internal/fault"
	"taskrole/internal/nft"
)

// Settings are what the administrator wants.
type Settings struct {
	Enforce  bool           // else only count
	Networks []netip.Prefix // sources that keep access
	// Excepted says which containers on the host's network keep access, by name; nil is none.
	Excepted func(name string) bool
}

// Names is who knows what containers are called.
type Names interface {
	// Name returns the name of the container with the id, "" if nobody knows it.
	Name(ctx context.Context, id string) (string, error)
	// Addresses returns the names of the containers that run, by address.
	Addresses(ctx context.Context) (map[netip.Addr]string, error)
}

// Options make a guard. Every field must be set.
type Options struct {
	Table   *nft.Table
	Logger  *slog.Logger
	Names   Names
	Cgroups string // where the cgroup v2 hierarchy is; "" where the host has none
	Own     string // the path of this process in it
}

// Guard keeps a table in place. Its methods may be called by several goroutines.
type Guard struct {
	table *nft.Table
	log   *slog.Logger
	names Names
	mount string
	own   string
	wake  chan struct{} // the settings changed

	unnamed chan struct{} // there are new containers

	mu     sync.Mutex // guards what follows
	on     *Settings  // nil: off
	found  map[uint64]cgroups.Cgroup
	called map[string]string // names of the containers in found, by id
	past   map[uint64]former
	told   map[nft.Asked]toldOf
}

// New makes a guard that is off.
func New(o Options) *Guard {
	return &Guard{
		table: o.Table, log: o.Logger, names: o.Names, mount: o.Cgroups, own: o.Own, wake: make(chan struct{}, 1), unnamed: make(chan struct{}, 1),
		called: map[string]string{}, past: map[uint64]former{}, told: map[nft.Asked]toldOf{},
	}
}

// Set puts the table as s says, or takes it away: nil is off. The error is a fault, and then nothing has changed.
func (g *Guard) Set(ctx context.Context, s *Settings) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s == nil {
		return g.off(ctx)
	}
	before := g.on
	g.on = s
	err := g.scan() // first, so that no container on the host's network gets through between two agents
	if err == nil {
		err = g.table.Put(nft.Rules{Enforce: s.Enforce, Networks: s.Networks})
	}
	if err != nil {
		g.on = before
		return fault.Wrap(err, fault.GuardFailed, "the guard's nftables table cannot be made, so containers would reach the host's own identity",
			"the kernel must have nftables and the agent CAP_NET_ADMIN; or set guard to off")
	}
	if before == nil || before.Enforce != s.Enforce {
		g.log.InfoContext(ctx, "the guard is on", slog.Bool("enforce", s.Enforce), slog.Bool("host_network", g.table.HostNetwork()))
	}
	if !g.table.HostNetwork() || g.mount == "" {
		g.log.WarnContext(ctx, "containers on the host's network are not guarded: that needs Linux 5.13 and cgroup v2")
	}
	g.nudge()
	return nil
}

func (g *Guard) off(ctx context.Context) error {
	was, err := g.table.Remove()
	switch {
	case err != nil && g.on != nil:
		return fault.Wrap(err, fault.GuardFailed, "the guard's nftables table cannot be removed", "try nft delete table inet "+nft.TableName)
	case err != nil: // also on a host that has no nftables at all
		g.log.DebugContext(ctx, "no table was looked for", slog.String("error", err.Error()))
	case was:
		g.log.InfoContext(ctx, "the guard is off, and its table removed")
	}
	g.on, g.found = nil, nil
	g.nudge()
	return nil
}

func (g *Guard) nudge() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// settings returns what is in force now, or nil.
func (g *Guard) settings() *Settings {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on
}

const (
	again = 5 * time.Second // after a failure; and how often the table is looked at though nobody told of a change
	look  = time.Second     // how often it is asked who asked: containers live seconds
)

// Serve keeps the table in place until ctx ends. It leaves the table there.
func (g *Guard) Serve(ctx context.Context) {
	for ctx.Err() == nil {
		if g.settings() == nil {
			select {
			case <-ctx.Done():
			case <-g.wake:
			}
			continue
		}
		g.keep(ctx)
	}
}

// keep serves while the guard is on.
func (g *Guard) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	changed := make(chan struct{}, 1)
	watching.Go(func() {
		g.persist(ctx, "nftables", func() error {
			return g.table.Watch(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	})
	if g.mount != "" {
		watching.Go(func() { g.persist(ctx, "cgroups", func() error { return g.watchCgroups(ctx) }) })
		watching.Go(func() { g.nameOn(ctx) })
	}
	watching.Go(func() { g.tellOn(ctx) })
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
			if g.settings() == nil {
				return
			}
		case <-changed:
			g.check(ctx)
		case <-tick.C:
			g.check(ctx)
		}
	}
}

// persist runs f until ctx ends, again after each failure: at once where it had gone well for a while, because what was
// missed then may be that the table is away.
func (g *Guard) persist(ctx context.Context, what string, f func() error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begin := time.Now()
		if err := f(); err != nil && ctx.Err() == nil {
			g.log.WarnContext(ctx, "watching is interrupted", slog.String("what", what), slog.String("error", err.Error()))
		}
		if time.Since(begin) >= again {
			pause = 0
		}
		timer.Reset(pause)
		pause = min(2*pause+look/10, again) //nolint:mnd // doubles
	}
}

// check puts the table back where somebody took it away.
func (g *Guard) check(ctx context.Context) {
	begin := time.Now()
	restored, err := g.table.Check()
	if err != nil {
		g.log.ErrorContext(ctx, "the guard's table was changed and cannot be put back", slog.String("error", err.Error()))
	} else if restored {
		g.log.WarnContext(ctx, "the guard's table was changed by somebody else, and is put back", slog.Duration("took", time.Since(begin)))
	}
}
