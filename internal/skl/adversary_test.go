package skl_test

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"taskrole/internal/skl"
)

// TestNeighbourIsKeptOut is the weak host model: Linux takes packets for an address on lo from eth0 as well. It shows
// each of the two locks alone, so that it is known what each is for.
func TestNeighbourIsKeptOut(t *testing.T) {
	strict := skl.Attach
	lax := skl.AttachWithoutIngress
	for _, tt := range []struct {
		name    string
		bound   bool // the listener, to lo
		attach  func(int, *net.TCPListener, []netip.AddrPort) (*skl.Steering, error)
		steered string // what the neighbour gets at the steered addresses
		direct  string // and at the listener's own port
	}{
		{"no lock", false, lax, "secret", "secret"},
		{"ingress check alone", false, strict, refused, "secret"},
		{"binding to lo alone", true, lax, timeout, refused},
		{"both locks", true, strict, refused, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := neighbours(t)
			var l *net.TCPListener
			if tt.bound {
				l = listen(t, ours, "secret")
			} else {
				l = plain(t, ours, "[::]:1", "secret")
			}
			s, err := tt.attach(ours.FD(), l, dests)
			check(t, err)
			defer s.Close()
			for address, want := range map[string]string{
				ecs4: tt.steered, imds6: tt.steered, "169.254.170.2:1": tt.direct, "[fd00:ec2::254]:1": tt.direct,
			} {
				if got := get(t, theirs, address); got != want {
					t.Errorf("neighbour to %s: %q, want %q", address, got, want)
				}
			}
			for _, address := range []string{ecs4, imds6, proxy} {
				if got := get(t, ours, address); got != "secret" {
					t.Errorf("the container itself to %s: %q", address, got)
				}
			}
			from := func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 9, 1}}) }
			if got := get(t, ours, ecs4, from); got != "secret" {
				t.Errorf("the container itself, from its eth0 address: %q", got)
			}
		})
	}
}

// TestApplicationKeepsItsPort has a web server on all addresses, bound before we come and after.
func TestApplicationKeepsItsPort(t *testing.T) {
	for _, address := range []string{"0.0.0.0:80", "[::]:80"} {
		for _, before := range []bool{true, false} {
			ours, theirs := neighbours(t)
			if before {
				plain(t, ours, address, "application")
			}
			attach(t, ours, listen(t, ours, "taskrole"))
			if !before {
				plain(t, ours, address, "application")
			}
			if got := get(t, ours, ecs4); got != "taskrole" {
				t.Errorf("%s (first: %v): our address: %q", address, before, got)
			}
			if got := get(t, ours, "127.0.0.1:80"); got != "application" {
				t.Errorf("%s (first: %v): the application on lo: %q", address, before, got)
			}
			if got := get(t, theirs, "10.9.9.1:80"); got != "application" {
				t.Errorf("%s (first: %v): the application for its clients: %q", address, before, got)
			}
			if got := get(t, theirs, ecs4); got != refused {
				t.Errorf("%s (first: %v): our address for a neighbour: %q", address, before, got)
			}
		}
	}
}

// TestNothingIsPassedToTheApplicationWhenWeAreGone closes the listener, and with it empties the map: a request for
// credentials must not reach whoever listens on all addresses.
func TestNothingIsPassedToTheApplicationWhenWeAreGone(t *testing.T) {
	n := container(t)
	l := listen(t, n, "taskrole")
	s := attach(t, n, l)
	plain(t, n, "[::]:80", "application")
	plain(t, n, "[::]:61170", "application")
	check(t, l.Close())
	for _, d := range dests {
		if got := get(t, n, d.String()); got != refused {
			t.Errorf("%s with the listener gone: %q, want %q", d, got, refused)
		}
	}
	if got := get(t, n, "127.0.0.1:80"); got != "application" {
		t.Errorf("the application's own port: %q", got)
	}
	check(t, s.Close())
	if got := get(t, n, ecs4); got != "application" {
		t.Errorf("after detaching everything: %q", got)
	}
}
