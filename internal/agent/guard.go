package agent

import (
	"context"

	"taskrole/internal/config"
	"taskrole/internal/fault"
	"taskrole/internal/guard"
	"taskrole/internal/netns"
	"taskrole/internal/nft"
)

// guarded is the configuration's guard in the guard's own words: nil is off.
func guarded(g config.Guard) *guard.Settings {
	if g.Mode == config.GuardOff {
		return nil
	}
	return &guard.Settings{Enforce: g.Mode == config.GuardEnforce, Networks: g.Networks}
}

// openGuard makes the guard and puts its table, before any container can be attached.
func (a *Agent) openGuard(ctx context.Context, cfg *config.Config, host *netns.NS) error {
	a.guard = guard.New(guard.Options{Table: nft.Open(host), Logger: a.log})
	return a.guard.Set(ctx, guarded(cfg.Guard))
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
