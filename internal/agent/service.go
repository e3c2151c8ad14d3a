package agent

import (
	"context"
	"fmt"
	"log/slog"

	"taskrole/internal/config"
	"taskrole/internal/systemd"
)

// report tells systemd, where it runs the agent, that the agent is ready, and when it begins to stop. The function it
// returns ends that.
func (a *Agent) report(ctx context.Context, cfg *config.Config) (stop func()) {
	a.told(ctx, systemd.Ready(status(cfg)))
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		a.told(ctx, systemd.Stopping())
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// watchdog says to systemd that the agent is alive for as long as it answers itself. It calls the handler and not the
// socket: during an outage of STS all connections may be taken by hooks that wait, which is no reason to be killed.
func (a *Agent) watchdog(ctx context.Context) {
	systemd.Watch(ctx, func(ctx context.Context) error {
		_, err := a.List(ctx)
		return err
	}, func(err error) { a.told(ctx, err) })
}

func (a *Agent) told(ctx context.Context, err error) {
	if err != nil {
		a.log.WarnContext(ctx, "systemd was not told", slog.String("error", err.Error()))
	}
}

func status(cfg *config.Config) string { return fmt.Sprintf("roles: %d", len(cfg.Roles)) }
