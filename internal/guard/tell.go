package guard

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"time"

	"taskrole/internal/nft"
)

// repeat is how often somebody who goes on asking is told of again.
const repeat = time.Hour

// toldOf is what was said of somebody last.
type toldOf struct {
	packets uint64
	at      time.Time
}

// tell logs who asked and was not told of yet, and once an hour who goes on.
func (g *Guard) tell(ctx context.Context) {
	asked, err := g.table.Asked()
	if err != nil || ctx.Err() != nil {
		return // the table is away; who keeps it says so
	}
	now := time.Now()
	fresh := map[nft.Asked]uint64{}
	g.mu.Lock()
	on, there := g.on, map[nft.Asked]bool{}
	for _, a := range asked {
		who := nft.Asked{Source: a.Source, Cgroup: a.Cgroup}
		there[who] = true
		last, known := g.told[who]
		if known && (now.Sub(last.at) < repeat || a.Packets == last.packets) {
			continue
		}
		g.told[who] = toldOf{a.Packets, now}
		fresh[who] = a.Packets
	}
	maps.DeleteFunc(g.told, func(who nft.Asked, _ toldOf) bool { return !there[who] })
	g.mu.Unlock()
	if len(fresh) == 0 || on == nil {
		return
	}
	var addresses map[netip.Addr]string
	for who, packets := range fresh {
		attrs := []slog.Attr{slog.Uint64("packets", packets), slog.Bool("dropped", on.Enforce)}
		if who.Cgroup != 0 {
			attrs = append(attrs, g.container(ctx, who.Cgroup)...)
		} else {
			if addresses == nil {
				addresses = g.addresses(ctx)
			}
			attrs = append(attrs, slog.String("source", who.Source.String()), slog.String("container", addresses[who.Source]))
		}
		g.log.LogAttrs(ctx, slog.LevelWarn, "somebody other than the host asks for the host's identity", attrs...)
	}
}

func (g *Guard) addresses(ctx context.Context) map[netip.Addr]string {
	ctx, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	all, err := g.names.Addresses(ctx)
	if err != nil {
		g.log.DebugContext(ctx, "no engine says whose address it is", slog.String("error", err.Error()))
	}
	if all == nil {
		all = map[netip.Addr]string{}
	}
	return all
}

// container is what is known of a cgroup on the host's network.
func (g *Guard) container(ctx context.Context, id uint64) []slog.Attr {
	g.mu.Lock()
	c, there := g.found[id]
	name := g.called[c.Container]
	if p := g.past[id]; !there {
		c, name = p.Cgroup, p.name
	}
	g.mu.Unlock()
	if name == "" && c.Container != "" {
		ctx, cancel := context.WithTimeout(ctx, again)
		defer cancel()
		name, _ = g.names.Name(ctx, c.Container) // the path says who it is as well
	}
	return []slog.Attr{slog.String("cgroup", c.Path), slog.String("container", name)}
}
