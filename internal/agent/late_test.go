package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"
)

var errAway = fault.New(fault.EngineUnreachable, "the engine is away", "")

// engineDouble is an engine whose events a test makes. Real ones are in test/integration; here it is about time.
type engineDouble struct {
	mu        sync.Mutex
	away      bool
	mute      int // how many lists fail
	running   []container.ID
	asked     []time.Time // for events
	listed    int
	connected chan func(docker.Event)
	drop      chan struct{}
}

func (e *engineDouble) Follow(ctx context.Context, _ string, connected func(), handle func(docker.Event)) error {
	e.mu.Lock()
	e.asked = append(e.asked, time.Now())
	away := e.away
	e.mu.Unlock()
	if away {
		return errAway
	}
	connected()
	events := make(chan docker.Event)
	select {
	case e.connected <- func(ev docker.Event) { events <- ev }:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case ev := <-events:
			handle(ev)
		case <-e.drop:
			return errAway
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *engineDouble) Labelled(context.Context, string) ([]docker.Labelled, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listed++
	if e.mute > 0 {
		e.mute--
		return nil, errAway
	}
	var all []docker.Labelled
	for _, id := range e.running {
		all = append(all, docker.Labelled{ID: id, Running: true})
	}
	return append(all, docker.Labelled{ID: "stopped"}), nil
}

func (e *engineDouble) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// attempts is what the agent would do with each container: it answers with a fault, or attaches.
type attempts struct {
	mu     sync.Mutex
	given  map[container.ID]int
	warmed []container.ID
	met    []string
	answer map[container.ID]*fault.Error
}

func (a *attempts) give(_ context.Context, id container.ID) (container.Container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.given[id]++
	c := container.Container{ID: id, Labels: map[string]string{label: strings.Repeat("r", 1000)}}
	if f := a.answer[id]; f != nil {
		return c, f
	}
	return c, nil
}

func (a *attempts) warm(_ context.Context, id container.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.warmed = append(a.warmed, id)
}

func (a *attempts) meet(_ context.Context, id container.ID, cgroup string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.met = append(a.met, string(id)+" in "+cgroup)
}

func (a *attempts) count(id container.ID) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.given[id]
}

func (a *attempts) say(id container.ID, c fault.Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.answer, id)
	if c != "" {
		a.answer[id] = fault.New(c, "no", "")
	}
}

// follows runs a test with a late that follows an engine, in the time of its own.
func follows(t *testing.T, prepare func(*engineDouble, *attempts), test func(*late, *engineDouble, *attempts, *logBufferInside)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &engineDouble{connected: make(chan func(docker.Event)), drop: make(chan struct{})}
		a := &attempts{given: map[container.ID]int{}, answer: map[container.ID]*fault.Error{}}
		prepare(e, a)
		log := new(logBufferInside)
		l := newLate(slog.New(slog.NewTextHandler(log, nil)), e)
		l.give, l.warm, l.meet = a.give, a.warm, a.meet
		l.alone = func(_ context.Context, id container.ID) bool { return id != "hooked" }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.run(ctx, nil)
		}()
		test(l, e, a, log)
		cancel()
		<-ended // and with it everything it began, or synctest says so
	})
}

// logBufferInside is a log that is read while it is written.
type logBufferInside struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBufferInside) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBufferInside) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func TestTheEngineIsAskedAgainSoonAndThenSeldom(t *testing.T) {
	follows(t, func(e *engineDouble, _ *attempts) { e.away = true }, func(_ *late, e *engineDouble, _ *attempts, log *logBufferInside) {
		begin := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		var pauses []time.Duration
		e.set(func() {
			for i := 1; i < len(e.asked); i++ {
				pauses = append(pauses, e.asked[i].Sub(e.asked[i-1]))
			}
			e.away, e.running = false, []container.ID{"c1"}
		})
		if !slices.IsSorted(pauses) || pauses[0] != firstFollow || pauses[len(pauses)-1] != lastFollow {
			t.Errorf("pauses %v; want them from %v up to %v", pauses, firstFollow, lastFollow)
		}
		if n := log.count("level=WARN"); n != 1 {
			t.Errorf("an engine that is away is said %d times in %v, want once", n, time.Since(begin))
		}
		<-e.connected
		e.drop <- struct{}{}
		synctest.Wait()
		from := time.Now()
		<-e.connected
		if d := time.Since(from); d != firstFollow {
			t.Errorf("after a connection the next attempt comes after %v, want %v", d, firstFollow)
		}
	})
}

func TestContainersThatRunAreLookedAtOnEachConnection(t *testing.T) {
	prepare := func(e *engineDouble, _ *attempts) { e.mute, e.running = 3, []container.ID{"c1", "c2"} }
	follows(t, prepare, func(l *late, e *engineDouble, a *attempts, _ *logBufferInside) {
		<-e.connected
		time.Sleep(time.Minute) // the first lists fail
		synctest.Wait()
		if a.count("c1") != 1 || a.count("c2") != 1 {
			t.Errorf("looked at %d and %d times, want once", a.count("c1"), a.count("c2"))
		}
		e.drop <- struct{}{}
		<-e.connected
		synctest.Wait()
		if n := a.count("c2"); n != 2 {
			t.Errorf("after the engine came back, looked at %d times, want 2", n)
		}
		l.reconsider()
		synctest.Wait()
		if n := a.count("c2"); n != 3 {
			t.Errorf("after the configuration changed, looked at %d times, want 3", n)
		}
	})
}

func TestWhatMayPassIsTriedAgainUntilTheContainerEnds(t *testing.T) {
	prepare := func(_ *engineDouble, a *attempts) { a.say("c1", fault.STSUnreachable) }
	follows(t, prepare, func(l *late, e *engineDouble, a *attempts, log *logBufferInside) {
		event := <-e.connected
		event(docker.Event{Kind: docker.Created, ID: "c1"})
		event(docker.Event{Kind: docker.Started, ID: "c1"})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := a.count("c1"); n < 3 || n > 6 {
			t.Errorf("%d attempts in ten seconds", n)
		}
		if n := log.count("refused"); n != 1 {
			t.Errorf("said %d times, want once", n)
		}
		if r := l.refused(); len(r) != 1 || r[0].Fault.Code != fault.STSUnreachable || len(r[0].Role) > 64 {
			t.Errorf("remembered: %+v", r)
		}
		if !slices.Equal(a.warmed, []container.ID{"c1"}) {
			t.Errorf("warmed %v", a.warmed)
		}
		// News are not kept waiting by the pause.
		before := a.count("c1")
		event(docker.Event{Kind: docker.Started, ID: "c1"})
		synctest.Wait()
		if n := a.count("c1"); n != before+1 {
			t.Errorf("%d attempts at once after news, want 1", n-before)
		}
		a.say("c1", fault.ContainerGone)
		event(docker.Event{Kind: docker.Died, ID: "c1"})
		synctest.Wait()
		after := a.count("c1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := a.count("c1"); n != after || len(l.refused()) > 0 {
			t.Errorf("%d attempts after the container's end, remembered: %+v", n-after, l.refused())
		}
	})
}

// Only containers that ask by label alone are met: the hook of the others must find nothing there.
func TestWhoIsMetAtBirth(t *testing.T) {
	prepare := func(e *engineDouble, _ *attempts) { e.running = []container.ID{"listed"} }
	follows(t, prepare, func(l *late, e *engineDouble, a *attempts, _ *logBufferInside) {
		event := <-e.connected
		for _, id := range []container.ID{"c1", "hooked", "removed"} {
			event(docker.Event{Kind: docker.Created, ID: id})
		}
		synctest.Wait()
		event(docker.Event{Kind: docker.Removed, ID: "removed"})
		synctest.Wait()
		for _, cgroup := range []string{
			"/docker/c1", "/system.slice/docker-listed.scope", "/x/prefix-stopped", "/docker/hooked", "/docker/removed", "/docker/stranger", "/", "/docker/-", "/docker/c1-.scope",
		} {
			l.born(context.WithoutCancel(t.Context()), cgroup)
			synctest.Wait()
		}
		want := []string{"c1 in /docker/c1", "listed in /system.slice/docker-listed.scope", "stopped in /x/prefix-stopped"}
		if !slices.Equal(a.met, want) {
			t.Errorf("met %q, want %q", a.met, want)
		}
	})
}

func TestARefusalIsSaidOnceForEachReasonAndForgottenInTheEnd(t *testing.T) {
	prepare := func(e *engineDouble, a *attempts) {
		a.say("c1", fault.RoleNotAllowed)
		e.running = []container.ID{"c1"}
	}
	follows(t, prepare, func(l *late, e *engineDouble, a *attempts, log *logBufferInside) {
		<-e.connected
		for range 3 {
			l.reconsider()
			synctest.Wait()
		}
		a.say("c1", fault.RoleUnknown)
		l.reconsider()
		synctest.Wait()
		if one, two := log.count("code=role-not-allowed"), log.count("code=role-unknown"); one != 1 || two != 1 {
			t.Errorf("said %d and %d times, want once each", one, two)
		}
		a.say("c1", "")
		l.reconsider()
		synctest.Wait()
		if r := l.refused(); len(r) > 0 {
			t.Errorf("remembered of a container that has its role now: %+v", r)
		}
		// What ended unseen is forgotten with the next list.
		a.say("c1", fault.RoleUnknown)
		l.reconsider()
		time.Sleep(time.Second)
		e.set(func() { e.running = nil })
		l.reconsider()
		synctest.Wait()
		if r := l.refused(); len(r) > 0 {
			t.Errorf("remembered of a container that has ended: %+v", r)
		}
	})
}

func TestRefusalsAreBounded(t *testing.T) {
	l := newLate(slog.New(slog.DiscardHandler), nil)
	for i := range 2 * maxRefusals {
		id := container.ID(fmt.Sprintf("c%d", i))
		l.refuse(t.Context(), container.Container{ID: id}, fault.As(errors.New("no")))
	}
	r := l.refused()
	if len(r) != maxRefusals || r[len(r)-1].Container.ID != container.ID(fmt.Sprintf("c%d", 2*maxRefusals-1)) {
		t.Errorf("%d are remembered, the last is %s", len(r), r[len(r)-1].Container.ID)
	}
}
