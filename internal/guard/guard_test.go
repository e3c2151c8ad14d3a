package guard_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

	"taskrole/internal/guard"
	"taskrole/internal/netns"
	"taskrole/internal/nft"
	"taskrole/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// world is a guard that serves, in a namespace of its own.
type world struct {
	*guard.Guard
	tb testing.TB
	ns *netns.NS
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.NetNS)
	ns, err := netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = ns.Close() })
	w := &world{tb: tb, ns: ns}
	w.Guard = guard.New(guard.Options{Table: nft.Open(ns), Logger: slog.New(slog.DiscardHandler)})
	return w
}

// serve runs the guard until the function it returns is called.
func (w *world) serve() (stop func()) {
	ctx, cancel := context.WithCancel(w.tb.Context())
	var serving sync.WaitGroup
	serving.Go(func() { w.Serve(ctx) })
	stop = sync.OnceFunc(func() { cancel(); serving.Wait() })
	w.tb.Cleanup(stop)
	return stop
}

func (w *world) library() *nftables.Conn {
	w.tb.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(w.ns.FD()))
	check(w.tb, err)
	return c
}

// there says whether the table has all its chains.
func (w *world) there() bool {
	w.tb.Helper()
	chains, err := w.library().ListChainsOfTableFamily(nftables.TableFamilyINet)
	check(w.tb, err)
	return len(chains) == 6
}

func (w *world) eventually(what string, f func() bool) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 4*time.Second) // less than the guard looks by itself
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.tb.Fatal(what)
		}
	}
}

// TestAFlushIsSurvived flushes everything, as a reload of a firewall does, many times; and measures.
func TestAFlushIsSurvived(t *testing.T) {
	w := newWorld(t)
	check(t, w.Set(t.Context(), &guard.Settings{Enforce: true}))
	w.serve()
	var all, worst time.Duration
	const times = 20
	for range times {
		w.eventually("the table is not there", w.there)
		c := w.library()
		c.FlushRuleset()
		check(t, c.Flush())
		begin := time.Now()
		w.eventually("the table does not come back", w.there)
		took := time.Since(begin)
		all, worst = all+took, max(worst, took)
	}
	t.Logf("the table was away for %s on average, %s at most", all/times, worst)
}

func TestTheTableOutlivesTheAgentAndGoesWhenTheGuardIsOff(t *testing.T) {
	w := newWorld(t)
	stop := w.serve()
	check(t, w.Set(t.Context(), &guard.Settings{Enforce: true}))
	stop()
	if !w.there() {
		t.Error("the table went with the agent")
	}
	next := guard.New(guard.Options{Table: nft.Open(w.ns), Logger: slog.New(slog.DiscardHandler)})
	check(t, next.Set(t.Context(), nil))
	if w.there() {
		t.Error("the next agent, with the guard off, leaves the table")
	}
	check(t, next.Set(t.Context(), nil))
}

func TestOnAndOffWhileItServes(t *testing.T) {
	w := newWorld(t)
	w.serve()
	for range 3 {
		check(t, w.Set(t.Context(), &guard.Settings{}))
		c := w.library()
		c.FlushRuleset()
		check(t, c.Flush())
		w.eventually("the table does not come back", w.there)
		check(t, w.Set(t.Context(), nil))
		if w.there() {
			t.Error("the table is there with the guard off")
		}
	}
}
