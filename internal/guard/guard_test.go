package guard_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"taskrole/internal/guard"
	"taskrole/internal/netns"
	"taskrole/internal/nft"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

func TestMain(m *testing.M) {
	if actor.Main() {
		return
	}
	os.Exit(testkit.Main(m))
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// world is a guard that serves, in a namespace of its own.
type world struct {
	*guard.Guard
	tb    testing.TB
	ns    *netns.NS
	names *engine
	mount string // of cgroups; "" is none
	said  said
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.NetNS)
	ns, err := netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = ns.Close() })
	w := &world{tb: tb, ns: ns, names: &engine{was: map[string]bool{}}}
	w.Guard = w.another()
	return w
}

// another is another agent's guard of the same namespace.
func (w *world) another() *guard.Guard {
	return guard.New(guard.Options{
		Table: nft.Open(w.ns), Logger: slog.New(slog.NewTextHandler(&w.said, nil)), Names: w.names, Cgroups: w.mount, Own: "/",
	})
}

// engine is one that knows names.
type engine struct {
	names map[string]string
	mu    sync.Mutex
	was   map[string]bool // asked for
}

func (e *engine) Name(_ context.Context, id string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.was[id] = true
	return e.names[id], nil
}

func (e *engine) asked(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.was[id]
}

func (e *engine) Addresses(context.Context) (map[netip.Addr]string, error) {
	return map[netip.Addr]string{netip.MustParseAddr("10.9.2.2"): "web"}, nil
}

// said is a log.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) contains(words ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
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
			w.said.mu.Lock()
			defer w.said.mu.Unlock()
			w.tb.Fatalf("%s; the log:\n%s", what, w.said.text.String())
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

// TestAFlushOfALargeRulesetIsSurvived has more to tell than a socket's usual buffer holds.
func TestAFlushOfALargeRulesetIsSurvived(t *testing.T) {
	w := newWorld(t)
	check(t, w.Set(t.Context(), &guard.Settings{Enforce: true}))
	w.serve()
	c := w.library()
	others := c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "many", Table: others})
	check(t, c.Flush())
	for range 100 {
		for range 40 {
			c.AddRule(&nftables.Rule{Table: others, Chain: chain, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictReturn}}})
		}
		check(t, c.Flush())
	}
	for range 3 {
		w.eventually("the table is not there", w.there)
		c.FlushRuleset()
		check(t, c.Flush())
		begin := time.Now()
		w.eventually("the table does not come back", w.there)
		t.Logf("the table was away for %s", time.Since(begin))
	}
}

func TestTheTableOutlivesTheAgentAndGoesWhenTheGuardIsOff(t *testing.T) {
	w := newWorld(t)
	stop := w.serve()
	check(t, w.Set(t.Context(), &guard.Settings{Enforce: true}))
	stop()
	if !w.there() {
		t.Error("the table went with the agent")
	}
	next := w.another()
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

// container makes the cgroup of a container, and returns its directory and the id.
func (w *world) container(top, digit string) (dir, id string) {
	w.tb.Helper()
	id = strings.Repeat(digit, 64)
	dir = filepath.Join(top, "docker-"+id+".scope")
	check(w.tb, os.Mkdir(dir, 0o755))
	w.tb.Cleanup(func() { actor.RemoveCgroup(w.tb, dir) })
	return dir, id
}

// refused says whether a socket made in the cgroup is kept off the service.
func (w *world) refused(dir string) bool {
	w.tb.Helper()
	move := func(dir string) {
		check(w.tb, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	}
	move(dir)
	defer move(w.mount)
	c, err := netns.Do(w.ns, func() (net.Conn, error) { return net.Dial("udp", "169.254.169.254:80") })
	check(w.tb, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err != nil
}

func TestContainersOnTheHostsNetworkAreFoundAndNamed(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.NetNS, testkit.Cgroup2)
	top := actor.NewCgroup(t)
	w := newWorld(t)
	w.mount = filepath.Dir(top)
	w.names.names = map[string]string{strings.Repeat("b", 64): "batch", strings.Repeat("c", 64): "cloudwatch-agent", strings.Repeat("d", 64): "brief"}
	w.Guard = w.another()
	_, err := netns.Do(w.ns, func() (struct{}, error) { // somewhere to send to
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return struct{}{}, err
		}
		_, d, err := net.ParseCIDR("169.254.169.254/32")
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, netlink.RouteAdd(&netlink.Route{Dst: d, LinkIndex: lo.Attrs().Index})
	})
	check(t, err)
	before, _ := w.container(top, "a")
	if w.refused(before) {
		t.Fatal("without the guard it is refused: the test proves nothing")
	}
	// At once, before the guard serves: between two agents there must be no gap.
	check(t, w.Set(t.Context(), &guard.Settings{Enforce: true}))
	if !w.refused(before) {
		t.Error("a container that was there before is not refused")
	}
	if w.refused(w.mount) {
		t.Error("the host itself is refused")
	}
	stop := w.serve()
	after, id := w.container(top, "b")
	begin := time.Now()
	w.eventually("a container that came is not refused", func() bool { return w.refused(after) })
	t.Logf("a new container was refused after %s at most", time.Since(begin))
	w.eventually("nobody says who it was", func() bool {
		return w.said.contains("asks for the host's identity", "container=batch", "cgroup=/"+filepath.Base(top)+"/docker-"+id, "dropped=true")
	})
	gone := filepath.Join(top, strings.Repeat("d", 64))
	check(t, os.Mkdir(gone, 0o755))
	w.eventually("a container that came is not refused", func() bool { return w.refused(gone) })
	w.eventually("its name is not asked for", func() bool { return w.names.asked(strings.Repeat("d", 64)) })
	actor.RemoveCgroup(t, gone)
	w.eventually("nobody says who one was that has gone", func() bool { return w.said.contains("asks for the host's identity", "container=brief") })
	stop()

	// The next agent has an exception.
	next := w.another()
	w.Guard = next
	friend, _ := w.container(top, "c")
	check(t, next.Set(t.Context(), &guard.Settings{Enforce: true, Excepted: func(name string) bool { return name == "cloudwatch-agent" }}))
	if !w.refused(after) || !w.refused(friend) {
		t.Error("before names are known, somebody is not refused")
	}
	w.serve()
	w.eventually("the exception is refused", func() bool { return !w.refused(friend) })
	if !w.refused(after) {
		t.Error("another than the exception is not refused")
	}
}
