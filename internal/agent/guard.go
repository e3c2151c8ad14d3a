package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"taskrole/internal/cgroups"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/guard"
	"taskrole/internal/netns"
	"taskrole/internal/nft"
	"taskrole/internal/policy"
)

// guarded is the configuration's guard in the guard's own words: nil is off.
func guarded(g config.Guard) *guard.Settings {
	if g.Mode == config.GuardOff {
		return nil
	}
	s := &guard.Settings{Enforce: g.Mode == config.GuardEnforce, Networks: g.Networks}
	if len(g.Names) > 0 {
		s.Excepted = func(name string) bool {
			return slices.ContainsFunc(g.Names, func(pattern string) bool { return policy.Match(pattern, name) })
		}
	}
	return s
}

// openGuard makes the guard and puts its table, before any container can be attached.
func (a *Agent) openGuard(ctx context.Context, cfg *config.Config, host *netns.NS) error {
	own, err := cgroups.Own()
	if err != nil {
		return err
	}
	a.guard = guard.New(guard.Options{Table: nft.Open(host), Logger: a.log, Names: names{a.engines}, Cgroups: a.tree.Dir(), Own: own})
	return a.guard.Set(ctx, guarded(cfg.Guard))
}

// names implements guard.Names: what the engines say.
type names struct{ engines engines }

func (n names) Name(ctx context.Context, id string) (string, error) {
	c, err := n.engines.Lookup(ctx, container.ID(id))
	return c.Name, err
}

func (n names) Addresses(ctx context.Context) (map[netip.Addr]string, error) {
	all := map[netip.Addr]string{}
	var errs []error
	for _, e := range n.engines {
		d, ok := e.what.(interface {
			Addresses(ctx context.Context) (map[netip.Addr]string, error)
		})
		if !ok {
			continue
		}
		some, err := d.Addresses(ctx)
		errs = append(errs, err)
		maps.Copy(all, some)
	}
	return all, errors.Join(errs...)
}

// RemoveGuard removes the guard's table from the network namespace of this process, and says whether there was one. It
// needs no agent; one that runs, with the guard on, puts the table back.
func RemoveGuard() (was bool, err error) {
	was, err = nft.Open(nil).Remove()
	if err != nil {
		return false, fault.Wrap(err, fault.GuardFailed, "the guard's nftables table cannot be removed",
			"run it as root; or try nft delete table inet "+nft.TableName)
	}
	return was, nil
}
