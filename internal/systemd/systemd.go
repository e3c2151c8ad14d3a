// Package systemd tells the service manager how the agent is doing: ready, reloading, stopping, alive (sd_notify(3)).
//
// It is the one door to go-systemd. Where no service manager listens it does nothing, so the agent runs the same way
// from a shell. It refuses to say "alive" by itself: a ping is sent only after the caller's own check has answered in
// time, so that the manager restarts an agent that hangs and not only one that is gone. Nothing here decides anything
// else, and a manager that cannot be told is no reason to stop serving: the caller logs it.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that the service has started, or has finished reloading. What it does is shown by systemctl status.
func Ready(status string) error { return tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Reloading says that the configuration is being read again; Ready must follow, whether it could be used or not.
func Reloading() error { return tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec()) }

// Stopping says that the service is ending.
func Stopping() error { return tell(daemon.SdNotifyStopping) }

// Watch tells the manager that the service is alive for as long as it is: three times in each period of the watchdog
// it calls alive, which should answer quickly, and pings once it has. Without a watchdog it returns at once, else when
// ctx ends. Each error, of alive or of the ping, goes to failed; there is no ping then.
//
// A call of alive that has not returned when the next one is due is not repeated: it is the hang that the manager
// shall see.
func Watch(ctx context.Context, alive func(context.Context) error, failed func(error)) {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		failed(fmt.Errorf("read what systemd wants of the watchdog: %w", err))
	}
	if period <= 0 {
		return
	}
	watch(ctx, period/3, alive, failed)
}

func watch(ctx context.Context, every time.Duration, alive func(context.Context) error, failed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	answers := make(chan error, 1)
	asked := false
	ask := func() {
		asked = true
		// Not waited for at the end: it may hang, which is what the manager is to find out.
		go func() { answers <- alive(ctx) }()
	}
	for ask(); ; {
		select {
		case <-ctx.Done():
			return
		case err := <-answers:
			asked = false
			if err == nil {
				err = tell(daemon.SdNotifyWatchdog)
			}
			if err != nil {
				failed(err)
			}
		case <-tick.C:
			if asked {
				failed(errHangs)
				continue
			}
			ask()
		}
	}
}

var errHangs = errors.New("the agent does not answer itself: no word to systemd's watchdog")

// tell sends one message; without a manager it does nothing.
func tell(state string) error {
	// The environment stays: more messages follow. Children may read it, but systemd listens to the main process only.
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
