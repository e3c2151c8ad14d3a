package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ports for the listener that nobody dials: package skl sends it what was meant for other addresses. Below 1024, so
// that no application gets them as an ephemeral port; the first is tcpmux, which nobody has served for decades.
const (
	firstPort = 1
	lastPort  = 9
)

// keepAlive ends connections whose client is gone without a word, which on lo happens when the address is taken away.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Listen makes the namespace's listener: dual stack on [::]:1, or on 127.0.0.1:1 where the kernel has no IPv6. It is
// bound to lo, so that its own port is closed to the neighbours. Where port 1 is taken it is another one.
//
// Multipath TCP is off: a sockmap refuses such a socket, and Go listens with it by default.
func (n *NS) Listen() (*net.TCPListener, error) {
	return Do(n, func() (*net.TCPListener, error) {
		l, err := listenOnFreePort("tcp6", netip.IPv6Unspecified())
		if errors.Is(err, unix.EAFNOSUPPORT) {
			l, err = listenOnFreePort("tcp4", netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		}
		return l, err
	})
}

// ListenAt makes a listener at addr itself, bound to lo: for kernels without sk_lookup. An application cannot then
// listen on that port of all addresses (EADDRINUSE), and one that does already makes this fail in the same way.
func (n *NS) ListenAt(addr netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
	}
	return Do(n, func() (*net.TCPListener, error) { return listen(network, addr) })
}

func listenOnFreePort(network string, addr netip.Addr) (*net.TCPListener, error) {
	for port := uint16(firstPort); port <= lastPort; port++ {
		l, err := listen(network, netip.AddrPortFrom(addr, port))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
	}
	return listen(network, netip.AddrPortFrom(addr, 0))
}

// listen runs on a thread that is in the namespace. The network names the family outright, so that what the agent's
// own namespace can do has no say in what is made here.
func listen(network string, addr netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control, KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// control runs on the socket before it is bound.
func control(network, address string, c syscall.RawConn) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = confine(int(fd), network, address) })
	return errors.Join(err, inner)
}

// confine binds the socket to lo, and lets the wildcard take IPv4 as well; Go has made it IPv6 only.
func confine(fd int, network, address string) error {
	if err := bindToLoopback(fd); err != nil {
		return fmt.Errorf("bind to lo: %w", err)
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	if network != "tcp6" || !addr.Addr().IsUnspecified() {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return fmt.Errorf("accept IPv4 too: %w", err)
	}
	return nil
}

// bindToLoopback goes by the index, which is lo's for certain, and by the name on kernels before 5.1.
func bindToLoopback(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, loopback)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
	}
	return err
}
