package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackOnceAfterEachTimeOfWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a := &Agent{done: make(chan struct{}, 1)}
		var freed atomic.Int64
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			tidy(ctx, a.done, func() { freed.Add(1) })
		}()
		expect := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			if got := freed.Load(); got != int64(want) {
				t.Errorf("%s: given back %d times, want %d", when, got, want)
			}
		}
		expect(0, "at the start")
		time.Sleep(quiet)
		expect(1, "after the start")
		time.Sleep(time.Hour)
		expect(1, "while nothing is done")
		for range 10 {
			a.worked()
			time.Sleep(quiet / 2)
		}
		expect(1, "while something is done all the time")
		time.Sleep(quiet)
		expect(2, "afterwards")
		cancel()
		<-ended
		a.worked()
		a.worked() // nobody listens, and nobody waits
	})
}
