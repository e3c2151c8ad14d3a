package agent

import (
	"context"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"
)

// label is what a container has that asks for its role neither by CDI nor by the runtime: --label taskrole=NAME.
const label = "taskrole"

// The pauses before the engine's events are asked for again. An engine that restarts is away for seconds, and a
// connection that fails at once costs nothing.
const (
	firstFollow = 200 * time.Millisecond
	lastFollow  = 5 * time.Second
)

const (
	// atOnce is for how many containers the engine and STS are asked at the same time.
	atOnce = 64
	// maxRefusals bounds what is remembered of refused containers.
	maxRefusals = 256
	// maxKnown bounds what is remembered of labelled containers. What is beyond is attached after its start.
	maxKnown = 8192
)

// follower is the engine as late needs it: docker.Engine outside tests.
type follower interface {
	Follow(ctx context.Context, label string, connected func(), handle func(docker.Event)) error
	Labelled(ctx context.Context, label string) ([]docker.Labelled, error)
}

// late brings their roles to containers that ask by label: those that run when the agent comes up or finds the engine
// again, and those that start afterwards. It learns of the start when the process already runs, so it can only be quick;
// that is why credentials are fetched when the container is created, well before. It keeps no lease for that: the broker
// keeps credentials that nobody holds for a while, and a container that is never started is forgotten with them.
type late struct {
	log    *slog.Logger
	engine follower
	// give makes one attempt to attach the container. That there is nothing to do is no error.
	give func(ctx context.Context, id container.ID) (container.Container, error)
	// warm fetches the credentials of a container that is about to start.
	warm func(ctx context.Context, id container.ID)
	// alone says whether the label is the only way by which the container asks. It is not called while one starts.
	alone func(ctx context.Context, id container.ID) bool
	// meet attaches a container whose cgroup has just been made, if its first process shows itself.
	meet func(ctx context.Context, id container.ID, cgroup string)

	again chan struct{} // the configuration is another one: list the containers anew
	room  chan struct{} // holds one value for each attempt under way
	wg    sync.WaitGroup

	mu       sync.Mutex                     // guards what follows
	pursued  map[container.ID]chan struct{} // each takes the news that something happened to the container
	refusals []Refusal                      // oldest first
	known    map[container.ID]bool          // those that have the label, also when they do not run: whether to meet them
}

// Refusal is a container that asks by label for a role, and runs without.
type Refusal struct {
	Container container.Container
	Role      string
	Fault     *fault.Error
	Since     time.Time
}

func newLate(log *slog.Logger, engine follower) *late {
	return &late{
		log: log, engine: engine, again: make(chan struct{}, 1), room: make(chan struct{}, atOnce),
		pursued: map[container.ID]chan struct{}{}, known: map[container.ID]bool{},
	}
}

// run follows the engine until ctx ends, and births if they can be seen.
func (l *late) run(ctx context.Context, m *midwife) {
	defer l.wg.Wait()
	if m != nil {
		l.wg.Go(func() { m.run(func(cgroup string) { l.born(ctx, cgroup) }) })
		defer m.close()
	}
	pause, level := firstFollow, slog.LevelWarn
	for {
		err := l.follow(ctx, func() { pause, level = firstFollow, slog.LevelWarn })
		if ctx.Err() != nil {
			return
		}
		f := fault.As(err)
		l.log.Log(ctx, level, "no events of the engine: containers that ask by label are not seen", slog.String("code", string(f.Code)),
			slog.String("error", f.What), slog.Any("cause", f.Err))
		level = slog.LevelDebug // once is enough
		if !sleep(ctx, pause, nil) {
			return
		}
		pause = min(2*pause, lastFollow) //nolint:mnd // doubles
	}
}

// follow takes the events of one connection to the engine. What it begins for a container outlives the connection.
func (l *late) follow(ctx context.Context, connected func()) error {
	here, cancel := context.WithCancel(ctx)
	var listing sync.WaitGroup
	defer listing.Wait()
	defer cancel()
	return l.engine.Follow(here, label, func() {
		connected()
		l.log.InfoContext(ctx, "following the engine's events for containers that ask by label")
		listing.Go(func() {
			for l.list(here, ctx) {
			}
		})
	}, func(e docker.Event) { l.handle(ctx, e) })
}

// list looks at every container that runs, however often the engine must be asked for them. Then it waits for the
// configuration to change, and says that it is time to list again; false says that the connection has ended.
func (l *late) list(here, ctx context.Context) bool {
	for pause := firstFollow; ; pause = min(2*pause, lastFollow) { //nolint:mnd // doubles
		asked := time.Now()
		all, err := l.engine.Labelled(here, label)
		if err == nil {
			l.keep(all, asked)
			for _, c := range all {
				if c.Running {
					l.pursue(ctx, c.ID)
				}
			}
			for _, c := range all {
				l.know(here, c.ID)
			}
			select {
			case <-here.Done():
				return false
			case <-l.again:
				return true
			}
		}
		l.log.WarnContext(here, "containers that run already are not seen", slog.String("error", fault.As(err).What))
		if !sleep(here, pause, nil) {
			return false
		}
	}
}

// reconsider makes every container that runs be looked at again.
func (l *late) reconsider() { poke(l.again) }

func (l *late) handle(ctx context.Context, e docker.Event) {
	switch e.Kind {
	case docker.Created:
		l.wg.Go(func() {
			if l.enter(ctx) {
				defer l.leave()
				l.know(ctx, e.ID)
				l.warm(ctx, e.ID)
			}
		})
	case docker.Started:
		l.pursue(ctx, e.ID)
	case docker.Died:
		l.ended(e.ID)
	case docker.Removed:
		l.ended(e.ID)
		l.mu.Lock()
		delete(l.known, e.ID)
		l.mu.Unlock()
	}
}

// born is told of each new cgroup in which a container may begin.
func (l *late) born(ctx context.Context, cgroup string) {
	id := containerOf(cgroup)
	l.mu.Lock()
	known := l.known[id]
	l.mu.Unlock()
	if !known {
		return
	}
	l.wg.Go(func() {
		if l.enter(ctx) {
			defer l.leave()
			l.meet(ctx, id, cgroup)
		}
	})
}

// containerOf is the id in the name that an engine gives a container's cgroup: ID, prefix-ID or prefix-ID.scope.
func containerOf(cgroup string) container.ID {
	name := strings.TrimSuffix(path.Base(cgroup), ".scope")
	return container.ID(name[strings.LastIndexByte(name, '-')+1:])
}

// pursue tries to attach the container until it is attached, refused for good, or gone.
func (l *late) pursue(ctx context.Context, id container.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if news, ok := l.pursued[id]; ok {
		poke(news)
		return
	}
	news := make(chan struct{}, 1)
	l.pursued[id] = news
	l.wg.Go(func() { l.chase(ctx, id, news) })
}

func (l *late) chase(ctx context.Context, id container.ID, news <-chan struct{}) {
	for pause := firstPause; ; {
		more := l.try(ctx, id)
		if !more && l.done(id, news) || more && !sleep(ctx, pause, news) {
			return
		}
		pause = min(2*pause, lastPause) //nolint:mnd // doubles
	}
}

// try says whether it is worth while to try again.
func (l *late) try(ctx context.Context, id container.ID) bool {
	if !l.enter(ctx) {
		return false
	}
	defer l.leave()
	c, err := l.give(ctx, id)
	if f := fault.As(err); f != nil && f.Code != fault.ContainerGone && ctx.Err() == nil {
		l.refuse(ctx, c, f)
		return passes(f.Code)
	}
	l.forgive(id)
	return false
}

// done ends the pursuit, unless there is news of the container.
func (l *late) done(id container.ID, news <-chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-news:
		return false
	default:
		delete(l.pursued, id)
		return true
	}
}

// ended makes a pursuit look whether it still has somebody to follow.
func (l *late) ended(id container.ID) {
	l.forgive(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if news, ok := l.pursued[id]; ok {
		poke(news)
	}
}

func (l *late) enter(ctx context.Context) bool {
	select {
	case l.room <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *late) leave() { <-l.room }

// refuse remembers and logs a refusal, unless it is the same as the last one of this container.
func (l *late) refuse(ctx context.Context, c container.Container, f *fault.Error) {
	r := Refusal{Container: c, Role: cut(c.Labels[label]), Fault: f, Since: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.refusal(c.ID); i >= 0 {
		if l.refusals[i].Fault.Code == f.Code {
			return
		}
		l.refusals = slices.Delete(l.refusals, i, i+1)
	}
	if len(l.refusals) >= maxRefusals {
		l.refusals = slices.Delete(l.refusals, 0, 1)
	}
	l.refusals = append(l.refusals, r)
	attrs := []slog.Attr{
		slog.String("container_id", c.ID.Short()), slog.String("container", c.Name), slog.String("role", r.Role),
		slog.String("way", string(container.WayLabel)), slog.String("code", string(f.Code)), slog.String("error", f.What), slog.String("hint", f.Hint),
	}
	if f.Err != nil {
		attrs = append(attrs, slog.String("cause", f.Err.Error()))
	}
	l.log.LogAttrs(ctx, slog.LevelWarn, "refused: the container runs without its role", attrs...)
}

// refusal is where the container's is, or -1. The caller holds the lock.
func (l *late) refusal(id container.ID) int {
	return slices.IndexFunc(l.refusals, func(r Refusal) bool { return r.Container.ID == id })
}

func (l *late) forgive(id container.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.refusal(id); i >= 0 {
		l.refusals = slices.Delete(l.refusals, i, i+1)
	}
}

// keep forgets what is remembered of containers that do not exist any more, and the refusals of those that did not run
// any more when the engine was asked: their end was not seen.
func (l *late) keep(all []docker.Labelled, asked time.Time) {
	running := map[container.ID]bool{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range all {
		running[c.ID] = c.Running
	}
	l.refusals = slices.DeleteFunc(l.refusals, func(r Refusal) bool { return r.Since.Before(asked) && !running[r.Container.ID] })
	maps.DeleteFunc(l.known, func(id container.ID, _ bool) bool {
		_, exists := running[id]
		return !exists // one that was made just now is not met, but attached after its start
	})
}

// know finds out whether the container is to be met when it begins. One that comes by CDI or the runtime as well is not:
// the hook must find nothing there.
func (l *late) know(ctx context.Context, id container.ID) {
	l.mu.Lock()
	_, known := l.known[id]
	full := len(l.known) >= maxKnown
	l.mu.Unlock()
	if known || full {
		return
	}
	alone := l.alone(ctx, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[id] = alone
}

// refused returns what is remembered, the oldest first.
func (l *late) refused() []Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.refusals)
}

// cut shortens what a label may hold to what a role can be called.
func cut(s string) string {
	const most = 64
	return s[:min(len(s), most)]
}

// passes says whether the reason for a fault may pass by itself.
func passes(c fault.Code) bool {
	switch c {
	case fault.STSUnreachable, fault.SourceUnavailable, fault.EngineUnreachable, fault.CredentialsNotReady:
		return true
	default:
		return false
	}
}

// sleep waits for the pause to end or for news, which may be nil; false says that ctx has ended.
func sleep(ctx context.Context, pause time.Duration, news <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-news:
	}
	return true
}

// poke leaves a message that something is new, where there is none yet.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
