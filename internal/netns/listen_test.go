package netns_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
)

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// option reads an integer socket option.
func option(t *testing.T, c syscall.Conn, level, name int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	var value int
	var inner error
	check(t, raw.Control(func(fd uintptr) { value, inner = unix.GetsockoptInt(int(fd), level, name) }))
	check(t, inner)
	return value
}

func dial(t *testing.T, n *netns.NS, address string) (net.Conn, error) {
	t.Helper()
	return netns.Do(n, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(t.Context(), "tcp", address)
	})
}

func TestListenIsDualStackOnLoAndPlainTCP(t *testing.T) {
	n := fresh(t)
	l, err := n.Listen()
	check(t, err)
	defer l.Close()
	if port(l) != 1 {
		t.Errorf("port %d, want 1", port(l))
	}
	if p := option(t, l, unix.SOL_SOCKET, unix.SO_PROTOCOL); p != unix.IPPROTO_TCP {
		t.Errorf("protocol %d, want TCP: a sockmap takes nothing else", p)
	}
	if i := option(t, l, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); i != 1 {
		t.Errorf("bound to device %d, want lo", i)
	}
	for _, address := range []string{"127.0.0.1:1", "[::1]:1"} {
		client, err := dial(t, n, address)
		if err != nil {
			t.Errorf("dial %s: %v", address, err)
			continue
		}
		server, err := l.AcceptTCP()
		check(t, err)
		if on := option(t, server, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on == 0 {
			t.Error("a dead client's connection would stay for ever")
		}
		_, _ = client.Close(), server.Close()
	}
}

func TestListenWorksWhereIPv6IsDisabled(t *testing.T) {
	n := fresh(t)
	check(t, disableIPv6(n))
	l, err := n.Listen()
	check(t, err)
	defer l.Close()
	c, err := dial(t, n, "127.0.0.1:1")
	check(t, err)
	check(t, c.Close())
}

func TestListenFindsAnotherPortWhenOneIsTaken(t *testing.T) {
	n := fresh(t)
	occupy := func(port int) net.Listener {
		l, err := netns.Do(n, func() (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), "tcp", "0.0.0.0:"+strconv.Itoa(port))
		})
		check(t, err)
		return l
	}
	defer occupy(1).Close()
	l, err := n.Listen()
	check(t, err)
	defer l.Close()
	if port(l) != 2 {
		t.Errorf("with port 1 taken: port %d, want 2", port(l))
	}
	for p := 3; p <= 9; p++ {
		defer occupy(p).Close()
	}
	last, err := n.Listen()
	check(t, err)
	defer last.Close()
	if port(last) <= 9 {
		t.Errorf("with all ports taken: %d", port(last))
	}
}

func TestListenAtTakesTheAddressItself(t *testing.T) {
	n := fresh(t)
	_, err := n.AddAddresses(addrs("169.254.170.2", "fd00:ec2::254"))
	check(t, err)
	for _, address := range []string{"169.254.170.2:80", "[fd00:ec2::254]:80"} {
		l, err := n.ListenAt(netip.MustParseAddrPort(address))
		check(t, err)
		defer l.Close()
		c, err := dial(t, n, address)
		check(t, err)
		check(t, c.Close())
		if l, err := n.ListenAt(netip.MustParseAddrPort(address)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("ListenAt(%s) twice = %v, %v", address, l, err)
		}
	}
}

func BenchmarkAddresses(b *testing.B) {
	n := fresh(b)
	all := addrs("169.254.170.2", "169.254.169.254", "fd00:ec2::254")
	for b.Loop() {
		added, err := n.AddAddresses(all)
		check(b, err)
		b.StopTimer()
		check(b, n.RemoveAddresses(added))
		b.StartTimer()
	}
}

func BenchmarkListen(b *testing.B) {
	n := fresh(b)
	for b.Loop() {
		l, err := n.Listen()
		check(b, err)
		check(b, l.Close())
	}
}
