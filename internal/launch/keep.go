package launch

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"taskrole/internal/cdispec"
	"taskrole/internal/companion"
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// Agent serves until ctx ends.
type Agent func(ctx context.Context, configPath string, logger *slog.Logger, reload <-chan os.Signal) error

// KeepOptions say which agent to keep.
type KeepOptions struct {
	ConfigPath string
	Agent      Agent
	Logger     *slog.Logger
}

const (
	// startPatience is for an agent to answer.
	startPatience = 20 * time.Second
	// askPause is the wait between two looks, at whether an agent answers.
	askPause = 10 * time.Millisecond
	// lastPatience is for those who wanted an agent that failed to end.
	lastPatience = 5 * time.Second
	// needPause is the wait between two looks at whether anybody needs the agent.
	needPause = 200 * time.Millisecond
)

// Keep is the companion of containers where no agent runs: it is that agent, for as long as a taskrole run lives or a
// container holds a role. In the end it takes away what it brought: socket, CDI document and key. The empty lock of
// control.Listen stays, as after any agent.
func Keep(ctx context.Context, o KeepOptions) error {
	seat, err := companion.Attend()
	if err != nil {
		return err
	}
	cfg, err := config.Load(o.ConfigPath)
	if err != nil {
		return seat.Failed(err)
	}
	held, err := openLock(cfg.Socket)
	if err != nil {
		return seat.Failed(err)
	}
	defer held.close()
	brought := notYet(cfg)
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(told)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- o.Agent(ctx, o.ConfigPath, o.Logger, nil) }()
	switch err := answers(ctx, cfg.Socket, done); {
	case fault.CodeOf(err) == fault.AgentRunning:
		return seat.Ready(true) // somebody else was quicker: there is one, and that is all we want
	case err != nil:
		stop()
		err = seat.Failed(err)
		clearUp(context.WithoutCancel(ctx), held, brought)
		return err
	}
	if err := errors.Join(seat.Ready(true), seat.Hush()); err != nil {
		o.Logger.DebugContext(ctx, "nobody waits for this agent any more", slog.String("error", err.Error()))
	}
	if needless, err := needed(ctx, held, cfg.Socket, done, told); !needless {
		stop()
		if err == nil {
			err = <-done
		}
		return err // what it brought may still be of use to containers
	}
	// Nobody can begin to need it now: a taskrole run waits for the lock. The document goes first, as long as the socket
	// keeps another agent from writing its own.
	brought.removeSpec()
	stop()
	err = <-done
	brought.removeState()
	held.remove()
	return err
}

// clearUp takes away what an agent that failed has brought, as soon as whoever wanted it is gone. Where somebody else goes
// on wanting one, it stays.
func clearUp(ctx context.Context, held *lock, b brought) {
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	for ctx.Err() == nil {
		if alone, err := held.take(syscall.LOCK_EX); alone || err != nil {
			b.removeSpec()
			b.removeState()
			held.remove()
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(lockPause):
		}
	}
}

// answers waits until the agent can be asked, or has ended.
func answers(ctx context.Context, socket string, done chan error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		_, err := control.List(ctx, socket)
		if err == nil {
			select {
			case err := <-done: // it was somebody else who answered
				return err
			default:
				return nil
			}
		}
		select {
		case err := <-done:
			return cmp.Or(err, errEnded)
		case <-ctx.Done():
			return err
		case <-time.After(askPause):
		}
	}
}

// errEnded means that an agent ended which nobody had told to.
var errEnded = errors.New("the agent ended")

// needed waits until no taskrole run lives and no container holds a role; then it says true, with the lock held for
// itself alone. It says false when the agent has ended, or was told to: that counts as soon as no taskrole run lives,
// because who stops a service sends SIGTERM to docker run and to us, and the container may need its role to end in order.
func needed(ctx context.Context, l *lock, socket string, done <-chan error, told <-chan os.Signal) (needless bool, err error) {
	mayEnd := false
	for {
		free, err := l.take(syscall.LOCK_EX)
		if err != nil {
			return false, err
		}
		if free {
			if reply, err := control.List(ctx, socket); err == nil && len(reply.Containers) == 0 {
				return true, nil
			}
			l.release()
			if mayEnd {
				return false, nil
			}
		}
		select {
		case err := <-done:
			return false, cmp.Or(err, errEnded)
		case <-told:
			mayEnd = true
		case <-ctx.Done():
			return false, nil
		case <-time.After(needPause):
		}
	}
}

// brought is what an agent makes that outlives it, and that was not there before.
type brought struct{ spec, state []string }

// notYet looks at what is there. The order is that of removal.
func notYet(cfg *config.Config) brought {
	missing := func(paths ...string) (m []string) {
		for _, p := range paths {
			if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
				m = append(m, p)
			}
		}
		return m
	}
	dir := filepath.Dir(cfg.Socket)
	return brought{
		spec:  missing(filepath.Join(cfg.CDI.Dir, cdispec.FileName)),
		state: missing(filepath.Join(dir, "imds-token.key"), filepath.Join(dir, "containers")),
	}
}

func (b brought) removeSpec() { remove(b.spec) }

func (b brought) removeState() { remove(b.state) }

// remove takes away files and empty directories. What cannot go stays: it does no harm.
func remove(paths []string) {
	for _, p := range paths {
		_ = os.Remove(p)
	}
}
