package attach_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"taskrole/internal/attach"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/testkit/actor"
)

func confined(t *attach.Target) { t.Confined = true }

func mixed(t *attach.Target) { t.Mixed = true }

func onHost(t *attach.Target) { t.Host = true }

// member starts a process in ns and in a cgroup such as an engine makes for the container.
func member(t *testing.T, ns *netns.NS, id container.ID) *actor.Actor {
	t.Helper()
	dir := filepath.Join(actor.NewCgroup(t), string(id))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { actor.RemoveCgroup(t, dir) })
	return actor.Start(t, ns, dir)
}

func TestContainersInOneNamespaceHaveTheirOwnRoles(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	a, b, c, none := member(t, ns, "a1"), member(t, ns, "b1"), member(t, ns, "c1"), member(t, ns, "d1")
	w.mustAttach(a, "a1", "reader", mixed) // nobody is confined here: the stranger is not, and is there already
	w.mustAttach(b, "b1", "writer", mixed)
	w.mustAttach(c, "c1", "reader", mixed)
	expect := func() {
		t.Helper()
		for who, want := range map[*actor.Actor]string{b: "200 writer", c: "200 reader", none: "404 " + string(fault.NotThisContainer)} {
			if got := who.Do("get " + ecsURL); got != want {
				t.Errorf("GET = %s, want %s", got, want)
			}
		}
	}
	expect()
	if got := a.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("GET = %s", got)
	}
	if list := w.attacher.List(); len(list) != 3 || !list[0].Shared || list[0].Host {
		t.Errorf("List = %+v", list)
	}
	a.End() // the first one made what the others use
	eventually(t, "one detached", func() bool { return len(w.attacher.List()) == 2 })
	expect()
	b.End()
	c.End()
	eventually(t, "all detached", func() bool { return len(w.attacher.List()) == 0 && w.released.Load() == 3 })
	if left := addresses(t, ns); len(left) != 0 {
		t.Errorf("left on lo: %v", left)
	}
	if got := none.Do("get " + ecsURL); !strings.HasPrefix(got, "error") {
		t.Errorf("after the last role has gone, GET = %s", got)
	}
}

// Each actor runs as root with every capability: a neighbour that listens in.
func TestTwoRolesBesideAnEavesdropperAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		first, second func(*attach.Target)
		stranger      bool
	}{
		"the_first":             {func(*attach.Target) {}, confined, false},
		"the_second":            {confined, func(*attach.Target) {}, false},
		"one_without_a_role":    {confined, confined, true},
		"only_one_may_be_mixed": {mixed, func(*attach.Target) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ns := actor.NewNS(t)
			w := newWorld(t, 0)
			a, b := member(t, ns, "a1"), member(t, ns, "b1")
			w.mustAttach(a, "a1", "reader", c.first)
			var stranger *actor.Actor
			if c.stranger {
				stranger = member(t, ns, "d1")
			}
			_, _, err := w.attach(b, "b1", "writer", c.second)
			if fault.CodeOf(err) != fault.NamespaceShared || !strings.Contains(err.Error(), "NET_RAW") {
				t.Errorf("Attach of another role = %v (%v)", err, errors.Unwrap(err))
			}
			if n := w.prepared.Load(); n != 1 {
				t.Errorf("credentials were fetched for %d containers", n)
			}
			if got := a.Do("get " + ecsURL); got != "200 reader" {
				t.Errorf("the first container suffers: GET = %s", got)
			}
			w.mustAttach(b, "b1", "reader", c.second) // the same role: there is nothing to overhear
			if stranger != nil {
				stranger.End()
				b.End()
				again := member(t, ns, "b2")
				w.mustAttach(again, "b2", "writer", confined)
				if got := again.Do("get " + ecsURL); got != "200 writer" {
					t.Errorf("GET after the eavesdropper has gone = %s", got)
				}
			}
		})
	}
}

func TestACrowdedNeighbourIsServed(t *testing.T) {
	ns := actor.NewNS(t)
	const places = 4
	w := newWorld(t, places)
	hog, quiet, stranger := member(t, ns, "a1"), member(t, ns, "b1"), member(t, ns, "d1")
	w.mustAttach(hog, "a1", "reader", mixed)
	w.mustAttach(quiet, "b1", "writer", mixed)
	for range 4 * places {
		hog.Do("hold 169.254.170.2:80") // a reset is one of the right answers
		stranger.Do("hold 169.254.170.2:80")
	}
	if got := quiet.Do("get " + ecsURL); got != "200 writer" {
		t.Errorf("beside a neighbour with all its connections open GET = %s", got)
	}
}

func TestOnTheHostsNetworkOnlyItsOwnCgroupIsTheContainer(t *testing.T) {
	ns := actor.NewNS(t) // stands for the host's
	w := newWorld(t, 0)
	if _, _, err := w.attach(actor.Start(t, ns, actor.NewCgroup(t)), "a1", "reader", onHost); fault.CodeOf(err) != fault.HostNetwork {
		t.Errorf("Attach of a process in a cgroup that is no container's = %v", err)
	}
	a, b := member(t, ns, "a1"), member(t, ns, "b1")
	w.mustAttach(a, "a1", "reader", onHost, confined)
	w.mustAttach(b, "b1", "writer", onHost, confined) // the host's own processes may do what they like, as this one may
	for who, want := range map[*actor.Actor]string{a: "200 reader", b: "200 writer", actor.Start(t, ns, ""): "404 " + string(fault.NotThisContainer)} {
		if got := who.Do("get " + ecsURL); got != want {
			t.Errorf("GET = %s, want %s", got, want)
		}
	}
	c := member(t, ns, "c1")
	if _, _, err := w.attach(c, "c1", "admin", onHost); fault.CodeOf(err) != fault.NamespaceShared {
		t.Errorf("Attach of a third with NET_RAW = %v", err)
	}
	if list := w.attacher.List(); len(list) != 2 || !list[0].Host || !list[0].Shared {
		t.Errorf("List = %+v", list)
	}
}

func TestAddressOfAnotherOnTheHostIsLeftAlone(t *testing.T) {
	ns := actor.NewNS(t)
	put(t, ns, netlink.AddrAdd)
	w := newWorld(t, 0)
	a := member(t, ns, "a1")
	if _, _, err := w.attach(a, "a1", "reader", onHost); fault.CodeOf(err) != fault.HostNetwork || !strings.Contains(err.Error(), "169.254.170.2") {
		t.Errorf("Attach where somebody has the address = %v", err)
	}
	if left := addresses(t, ns); len(left) != 1 {
		t.Errorf("on lo: %v", left)
	}
	put(t, ns, netlink.AddrDel)
	w.mustAttach(a, "a1", "reader", onHost)
}

// put adds or deletes 169.254.170.2 on lo of ns, as somebody else would.
func put(t *testing.T, ns *netns.NS, f func(netlink.Link, *netlink.Addr) error) {
	t.Helper()
	_, err := netns.Do(ns, func() (struct{}, error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, f(lo, &netlink.Addr{IPNet: netlink.NewIPNet(net.IPv4(169, 254, 170, 2))})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnAgentThatComesBackTakesTheHostsAddressAwayInTheEnd(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	a := member(t, ns, "a1")
	w.mustAttach(a, "a1", "reader", onHost)
	w.attacher.Close() // the address stays, so that requests are refused
	w = newWorld(t, 0)
	w.mustAttach(a, "a1", "reader", onHost)
	a.End()
	eventually(t, "detached", func() bool { return len(w.attacher.List()) == 0 && w.released.Load() == 1 })
	for _, left := range addresses(t, ns) {
		if netip.MustParsePrefix(left).Addr().Is4() {
			t.Errorf("left on lo: %s", left)
		}
	}
}

func TestLookSeesWhatTheContainerTookAway(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	a, other := actor.Start(t, ns, ""), actor.Start(t, actor.NewNS(t), "")
	w.mustAttach(a, "a1", "reader")
	w.mustAttach(other, "b1", "writer")
	if list := w.attacher.Look(); len(list) != 2 || list[0].Missing != "" || list[1].Missing != "" {
		t.Errorf("Look = %+v", list)
	}
	put(t, ns, netlink.AddrDel)
	if list := w.attacher.Look(); !strings.Contains(list[0].Missing, "169.254.170.2") || list[1].Missing != "" {
		t.Errorf("Look without the address = %+v", list)
	}
	if got := other.Do("get " + ecsURL); got != "200 writer" {
		t.Errorf("another container suffers: GET = %s", got)
	}
}

// The second container may bring addresses that the first had no need of.
func TestSecondContainerBringsItsOwnDestinations(t *testing.T) {
	for name, change := range map[string][]func(attach.Options) attach.Options{"steering": nil, "direct": {attach.Direct}} {
		t.Run(name, func(t *testing.T) {
			ns := actor.NewNS(t)
			w := newWorld(t, 0, change...)
			a, b := member(t, ns, "a1"), member(t, ns, "b1")
			w.mustAttach(a, "a1", "reader", mixed)
			if got := a.Do("get http://169.254.170.23/"); !strings.HasPrefix(got, "error") {
				t.Errorf("before the second came, GET = %s", got)
			}
			w.mustAttach(b, "b1", withPodIdentity, mixed)
			for who, want := range map[*actor.Actor]string{a: "200 reader", b: "200 " + withPodIdentity} {
				for _, url := range []string{ecsURL, "http://169.254.170.23/"} {
					if got := who.Do("get " + url); got != want {
						t.Errorf("GET %s = %s, want %s", url, got, want)
					}
				}
			}
			a.End()
			b.End()
			eventually(t, "detached", func() bool { return len(w.attacher.List()) == 0 })
			if left := addresses(t, ns); len(left) != 0 {
				t.Errorf("left on lo: %v", left)
			}
		})
	}
}

// Before Linux 5.9 the kernel cannot steer: port 80 of our addresses is taken itself.
func TestKernelThatCannotSteer(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0, attach.Direct)
	a, b, none := member(t, ns, "a1"), member(t, ns, "b1"), member(t, ns, "d1")
	w.mustAttach(a, "a1", "reader", mixed)
	w.mustAttach(b, "b1", "writer", mixed)
	for who, want := range map[*actor.Actor]string{a: "200 reader", b: "200 writer", none: "404 " + string(fault.NotThisContainer)} {
		for _, url := range []string{ecsURL, "http://169.254.169.254/", "http://127.0.0.1:61170/"} {
			if got := who.Do("get " + url); got != want {
				t.Errorf("GET %s = %s, want %s", url, got, want)
			}
		}
	}
	if list := w.attacher.Look(); len(list) != 2 || !list[0].Direct || list[0].Missing != "" {
		t.Errorf("Look = %+v", list)
	}
	if got := none.Do("serve 0.0.0.0:80"); !strings.Contains(got, "address already in use") {
		t.Errorf("an application takes port 80: %s", got)
	}
	busy := actor.NewNS(t)
	app := member(t, busy, "e1")
	app.Do("serve 0.0.0.0:80")
	if _, _, err := w.attach(app, "e1", "reader"); fault.CodeOf(err) != fault.PortTaken || !strings.Contains(err.Error(), "169.254.170.2:80") {
		t.Errorf("port 80 is taken: %v", err)
	}
	a.End()
	b.End()
	eventually(t, "detached", func() bool { return len(w.attacher.List()) == 0 && w.released.Load() == 3 }) // of the refused one too
	if left := addresses(t, ns); len(left) != 0 {
		t.Errorf("left on lo: %v", left)
	}
	if got := none.Do("serve 0.0.0.0:80"); got != "<nil>" {
		t.Errorf("afterwards the port is not free: %s", got)
	}
}

// A kernel that cannot steer and an application that has port 80 already: refused, and nothing is left.
func TestPortThatIsTakenWhereTheKernelCannotSteer(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0, attach.Direct)
	a := actor.Start(t, ns, "")
	if got := a.Do("serve 0.0.0.0:80"); got != "<nil>" {
		t.Fatal(got)
	}
	if _, _, err := w.attach(a, "a1", "reader"); err == nil {
		t.Error("attached where the port is taken")
	}
	if left := addresses(t, ns); len(left) != 0 || len(w.attacher.List()) != 0 {
		t.Errorf("left: %v", left)
	}
}
