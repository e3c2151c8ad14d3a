package agent

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/hostimds"
	"taskrole/internal/instance"
)

// How often the host's metadata service is asked. What it tells changes with a stop of the instance, which ends the
// agent too; but a network that comes up after the agent makes the first answer late.
const (
	askAgainFirst = 30 * time.Second
	askAgainMost  = time.Hour
)

// telling is what containers are told of the instance, and where it comes from. The zero one is ready.
type telling struct {
	mixed atomic.Pointer[instance.Facts] // replaced whole

	mu         sync.Mutex // guards what follows
	host       *instance.Facts
	configured instance.Facts
	ask        bool
}

// configure takes what the configuration says.
func (t *telling) configure(cfg *config.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.configured, t.ask = cfg.Metadata, cfg.AskHost
	t.mix()
}

// learn takes what the host's metadata service says.
func (t *telling) learn(f instance.Facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.host = &f
	t.mix()
}

// mix lets the host's own word count more than the configuration's.
func (t *telling) mix() {
	f := t.configured
	if t.host != nil && t.ask {
		f = t.host.Or(f)
	}
	t.mixed.Store(&f)
}

// watchHost asks the host's metadata service at once, and rarely from then on. That there is none is no error: most
// hosts are no instances.
func (a *Agent) watchHost(ctx context.Context) {
	client, err := hostimds.New(ctx, "")
	if err != nil {
		a.log.WarnContext(ctx, "the host's metadata service is not asked", slog.String("error", err.Error()))
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := askAgainFirst; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if a.config.Load().AskHost {
			f, err := client.Fetch(ctx)
			if err == nil {
				a.telling.learn(f)
				pause = askAgainMost
			} else {
				a.log.DebugContext(ctx, "no word from a metadata service of the host", slog.String("error", err.Error()))
			}
		}
		timer.Reset(pause)
		pause = min(2*pause, askAgainMost) //nolint:mnd // doubles
	}
}
