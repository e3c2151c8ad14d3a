package taskmeta

import (
	"context"
	"sync"
	"time"

	"taskrole/internal/fault"
)

// kept is an answer of the engine that is asked for again when it is old. One question is under way at a time, however
// many wait; a failure is kept for a while too.
type kept[T any] struct {
	age  time.Duration
	ask  func(ctx context.Context, before T) (T, error) // before is the last good answer
	busy chan struct{}                                  // holds a token while somebody asks

	mu    sync.Mutex // guards what follows
	value T
	err   error
	until time.Time
}

func (k *kept[T]) init(age time.Duration, ask func(context.Context, T) (T, error)) {
	k.age, k.ask, k.busy = age, ask, make(chan struct{}, 1)
}

// get returns the answer, or waits for it until ctx ends.
func (k *kept[T]) get(ctx context.Context) (T, error) {
	if v, err, fresh := k.look(); fresh {
		return v, err
	}
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, fault.Wrap(ctx.Err(), fault.EngineUnreachable, "the engine has not answered yet", "try again in a moment")
	}
	defer func() { <-k.busy }()
	v, err, fresh := k.look()
	if fresh { // whoever was busy has asked
		return v, err
	}
	got, err := k.ask(ctx, v)
	if err != nil && ctx.Err() != nil {
		return got, err // says nothing about the engine
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.until = err, time.Now().Add(k.age)
	if err == nil {
		k.value = got
	}
	return got, err
}

func (k *kept[T]) look() (v T, err error, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.value, k.err, time.Now().Before(k.until)
}
