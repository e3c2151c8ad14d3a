package attach_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

const ecsURL = "http://169.254.170.2/"

func TestMain(m *testing.M) {
	if actor.Main() {
		return
	}
	os.Exit(testkit.Main(m))
}

// target opens the process as the hook would.
func target(t *testing.T, c *actor.Actor, id container.ID, role string) attach.Target {
	t.Helper()
	p, err := attest.OpenProcess(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.NetNS()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return attach.Target{ID: id, Role: role, Way: container.WayCDI, Process: p, NS: ns}
}

type refusedKey struct{}

// world is an attacher with a service that answers with the role's name, and counts.
type world struct {
	t                  *testing.T
	attacher           *attach.Attacher
	prepared, released atomic.Int32
	ended              atomic.Bool // as the last release said
}

func newWorld(t *testing.T, connections int, change ...func(attach.Options) attach.Options) *world {
	t.Helper()
	w := &world{t: t}
	w.attacher = newAttacher(t, connections, serveAll(t, ""), change...)
	t.Cleanup(w.attacher.Close)
	return w
}

func newAttacher(tb testing.TB, connections int, stranger func(net.Conn), change ...func(attach.Options) attach.Options) *attach.Attacher {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.SkLookup)
	tree, err := attest.OpenTree()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = tree.Close() })
	o := attach.Options{Logger: slog.New(slog.DiscardHandler), Tree: tree, Connections: connections, Stranger: stranger}
	for _, f := range change {
		o = f(o)
	}
	a, err := attach.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// destinations are those of a role with a proxy.
var destinations = []netip.AddrPort{address.ECS, address.PodIdentity, address.PodIdentity6, address.FullURI, address.IMDS, address.IMDS6, address.Proxy}

// serveAll returns what takes over connections, and answers them with the text, or with the code of the refusal.
func serveAll(t *testing.T, text string) func(net.Conn) {
	t.Helper()
	h := &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if f, _ := r.Context().Value(refusedKey{}).(*fault.Error); f != nil {
				http.Error(rw, string(f.Code), f.Status())
				return
			}
			_, _ = io.WriteString(rw, text)
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if r, ok := c.(interface{ Refused() *fault.Error }); ok {
				return context.WithValue(ctx, refusedKey{}, r.Refused())
			}
			return ctx
		},
	}
	go func() { _ = srv.Serve(h) }()
	t.Cleanup(func() { _ = srv.Close() })
	return func(c net.Conn) {
		select {
		case h.conns <- c:
		case <-h.closed:
			_ = c.Close()
		}
	}
}

// handed is a listener whose connections come from elsewhere.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return &net.UnixAddr{} }

// attach attaches c with the role.
func (w *world) attach(c *actor.Actor, id container.ID, role string, change ...func(*attach.Target)) (attach.Attached, bool, error) {
	target := target(w.t, c, id, role)
	for _, f := range change {
		f(&target)
	}
	return w.attacher.Attach(w.t.Context(), target, func(context.Context) (attach.Service, error) { return w.service(id, role), nil })
}

func (w *world) mustAttach(c *actor.Actor, id container.ID, role string, change ...func(*attach.Target)) {
	w.t.Helper()
	if _, already, err := w.attach(c, id, role, change...); err != nil || already {
		w.t.Fatalf("Attach(%s) = already %v, %v", id, already, err)
	}
}

// withPodIdentity is a role with one address more.
const withPodIdentity = "with-pod-identity"

func (w *world) service(id container.ID, role string) attach.Service {
	w.prepared.Add(1)
	dests := []netip.AddrPort{address.ECS, address.IMDS, address.Proxy}
	if role == withPodIdentity {
		dests = append(dests, address.PodIdentity)
	}
	return attach.Service{
		Container: container.Container{ID: id}, RoleARN: "arn:" + role, Session: "s-" + string(id),
		Destinations: dests,
		Handle:       serveAll(w.t, role),
		Release: func(ended bool) {
			w.released.Add(1)
			w.ended.Store(ended)
		},
	}
}

// eventually waits for ok without guessing how long it takes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

// addresses lists what stands on lo of ns besides the loopback addresses.
func addresses(t *testing.T, ns *netns.NS) []string {
	t.Helper()
	found, err := netns.Do(ns, func() ([]string, error) {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return nil, err
		}
		addrs, err := lo.Addrs()
		var list []string
		for _, a := range addrs {
			if p := netip.MustParsePrefix(a.String()); !p.Addr().IsLoopback() {
				list = append(list, a.String())
			}
		}
		return list, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestContainerFindsItsRoleAtEveryDestination(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	w.mustAttach(c, "c1", "reader")
	for _, url := range []string{ecsURL, "http://169.254.169.254/", "http://127.0.0.1:61170/"} {
		if got := c.Do("get " + url); got != "200 reader" {
			t.Errorf("GET %s = %s", url, got)
		}
	}
	list := w.attacher.List()
	if len(list) != 1 || list[0].Role != "reader" || list[0].Session != "s-c1" || list[0].PID != c.PID() || list[0].Direct {
		t.Errorf("List() = %+v", list)
	}
}

func TestApplicationKeepsPort80(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("bound_before_attach_%v", before), func(t *testing.T) {
			ns := actor.NewNS(t)
			w := newWorld(t, 0)
			c := actor.Start(t, ns, "")
			bind := func() {
				if got := c.Do("serve 0.0.0.0:80"); got != "<nil>" {
					t.Fatalf("the application cannot bind 0.0.0.0:80: %s", got)
				}
			}
			if before {
				bind()
			}
			w.mustAttach(c, "c1", "reader")
			if !before {
				bind()
			}
			if got := c.Do("get http://127.0.0.1/"); got != "200 the application" {
				t.Errorf("the application's own port 80 answers %s", got)
			}
			if got := c.Do("get " + ecsURL); got != "200 reader" {
				t.Errorf("GET %s = %s", ecsURL, got)
			}
		})
	}
}

func TestSecondAttachGetsTheSameAnswerAndNoSecondListener(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	first, _, err := w.attach(c, "c1", "reader")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, already, err := w.attach(c, "c1", "reader")
			if err != nil || !already || got.Session != first.Session || !got.Since.Equal(first.Since) {
				t.Errorf("second Attach = %+v, already %v, %v", got, already, err)
			}
		})
	}
	wg.Wait()
	if n := w.prepared.Load(); n != 1 || len(w.attacher.List()) != 1 {
		t.Errorf("prepared %d times, %d attached; want 1 and 1", n, len(w.attacher.List()))
	}
}

func TestConcurrentFirstAttachesPrepareOnce(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	var firsts atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, already, err := w.attach(c, "c1", "reader")
			if err != nil {
				t.Error(err)
			}
			if !already {
				firsts.Add(1)
			}
		})
	}
	wg.Wait()
	if n := w.prepared.Load(); n != 1 || firsts.Load() != 1 {
		t.Errorf("prepared %d times, %d were first; want 1 and 1", n, firsts.Load())
	}
}

func TestRefusalLeavesNothing(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	want := fault.New(fault.RoleNotAllowed, "no", "")
	_, _, err := w.attacher.Attach(t.Context(), target(t, c, "c1", "reader"), func(context.Context) (attach.Service, error) { return attach.Service{}, want })
	if fault.As(err) != want {
		t.Errorf("Attach = %v, want %v", err, want)
	}
	if list, left := w.attacher.List(), addresses(t, ns); len(list) != 0 || len(left) != 0 {
		t.Errorf("left behind: %v, addresses %v", list, left)
	}
	w.mustAttach(c, "c1", "reader") // and the refusal is not remembered
}

func TestDetachWhenTheContainerEnds(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	w.mustAttach(c, "c1", "reader")
	if got := c.Do("hold 169.254.170.2:80"); got != "<nil>" {
		t.Fatal(got)
	}
	c.End()
	eventually(t, "detached", func() bool { return len(w.attacher.List()) == 0 && w.released.Load() == 1 })
	if left := addresses(t, ns); len(left) != 0 || !w.ended.Load() {
		t.Errorf("addresses left on lo: %v; released as ended: %v", left, w.ended.Load())
	}
	again := actor.Start(t, ns, "") // a restart: same id, same namespace here, another process
	w.mustAttach(again, "c1", "reader")
	if got := again.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("after a restart GET = %s", got)
	}
}

func TestRestartDoesNotWaitForTheOldDetach(t *testing.T) {
	ns, ns2 := actor.NewNS(t), actor.NewNS(t)
	w := newWorld(t, 0)
	for range 5 { // the new hook may come before the old process's end has been noticed
		c := actor.Start(t, ns, "")
		w.mustAttach(c, "c1", "reader")
		c.End()
		c2 := actor.Start(t, ns2, "")
		w.mustAttach(c2, "c1", "reader")
		c2.End()
	}
	eventually(t, "all detached", func() bool { return len(w.attacher.List()) == 0 })
}

func TestStoppingLeavesTheAddressesSoThatRequestsAreRefused(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	w.mustAttach(c, "c1", "reader")
	w.attacher.Close()
	if left := addresses(t, ns); len(left) != 2 {
		t.Errorf("addresses on lo after the agent stopped: %v; they keep requests from the host's IMDS", left)
	}
	if got := c.Do("get http://169.254.169.254/"); !strings.Contains(got, "refused") {
		t.Errorf("GET after the agent stopped = %s, want refused", got)
	}
	if w.released.Load() != 1 || w.ended.Load() {
		t.Errorf("released %d times, as ended: %v; want once and not ended", w.released.Load(), w.ended.Load())
	}
	if _, _, err := w.attach(c, "c1", "reader"); fault.CodeOf(err) != fault.AgentUnreachable {
		t.Errorf("Attach after Close = %v", err)
	}
}

func TestConnectionsBeyondTheBoundWait(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 2)
	c := actor.Start(t, ns, "")
	w.mustAttach(c, "c1", "reader")
	hog := actor.Start(t, ns, "")
	for range 2 {
		if got := hog.Do("hold 169.254.170.2:80"); got != "<nil>" {
			t.Fatal(got)
		}
	}
	answered := make(chan string, 1)
	go func() { answered <- c.Do("get " + ecsURL) }()
	hog.End() // frees both slots
	if got := <-answered; got != "200 reader" {
		t.Errorf("GET after the hog had gone = %s", got)
	}
}
