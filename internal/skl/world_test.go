package skl_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/internal/skl"
	"taskrole/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

const (
	ecs4  = "169.254.170.2:80"
	imds6 = "[fd00:ec2::254]:80"
	proxy = "127.0.0.1:61170"
)

// dests are steered in every test.
var dests = []netip.AddrPort{
	netip.MustParseAddrPort(ecs4),
	netip.MustParseAddrPort(imds6),
	netip.MustParseAddrPort(proxy),
}

// What a connection came to, beside what its server said.
const (
	refused = "connection refused"
	timeout = "timeout"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func in(n *netns.NS, f func() error) error {
	_, err := netns.Do(n, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// container is a namespace with our addresses on its lo.
func container(tb testing.TB) *netns.NS {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.NetNS, testkit.SkLookup)
	n, err := netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = n.Close() })
	_, err = n.AddAddresses([]netip.Addr{dests[0].Addr(), dests[1].Addr(), dests[2].Addr()})
	check(tb, err)
	return n
}

// neighbours joins a container, 10.9.9.1 and fd09::1, to another namespace, .2 and ::2, which has routes to the
// container's addresses through it.
func neighbours(tb testing.TB) (ours, theirs *netns.NS) {
	tb.Helper()
	ours = container(tb)
	theirs, err := netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = theirs.Close() })
	check(tb, in(ours, func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(theirs.FD()),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return configure("10.9.9.1/24", "fd09::1/64")
	}))
	check(tb, in(theirs, func() error {
		if err := configure("10.9.9.2/24", "fd09::2/64"); err != nil {
			return err
		}
		for dst, via := range map[string]string{"169.254.170.2/32": "10.9.9.1", "fd00:ec2::254/128": "fd09::1"} {
			_, d, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{Dst: d, Gw: net.ParseIP(via)}); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, address := range []string{"10.9.9.1:9", "[fd09::1]:9"} { // the first packets may be lost while links come up
		for try := 0; get(tb, theirs, address) != refused; try++ {
			if try == 10 {
				tb.Fatalf("%s does not answer its neighbour", address)
			}
		}
	}
	return ours, theirs
}

// configure brings eth0 of the thread's namespace up with addresses.
func configure(addrs ...string) error {
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(eth, a); err != nil {
			return err
		}
	}
	return nil
}

// listen makes the namespace's listener and lets it greet everybody with what.
func listen(tb testing.TB, n *netns.NS, what string) *net.TCPListener {
	tb.Helper()
	l, err := n.Listen()
	check(tb, err)
	greet(tb, l, what)
	return l
}

// plain is a listener such as an application makes.
func plain(tb testing.TB, n *netns.NS, address, what string) *net.TCPListener {
	tb.Helper()
	l, err := netns.Do(n, func() (net.Listener, error) {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		return lc.Listen(tb.Context(), "tcp", address)
	})
	check(tb, err)
	greet(tb, l.(*net.TCPListener), what)
	return l.(*net.TCPListener)
}

func greet(tb testing.TB, l *net.TCPListener, what string) {
	tb.Helper()
	var wg sync.WaitGroup
	tb.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, what)
			_ = c.Close()
		}
	})
}

func attach(tb testing.TB, n *netns.NS, l *net.TCPListener) *skl.Steering {
	tb.Helper()
	s, err := skl.Attach(n.FD(), l, dests)
	check(tb, err)
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// get dials from inside n and says what came of it: the server's word, or why not.
func get(tb testing.TB, n *netns.NS, address string, options ...func(fd int) error) string {
	tb.Helper()
	d := net.Dialer{Timeout: 700 * time.Millisecond, Control: func(_, _ string, c syscall.RawConn) error {
		var errs []error
		err := c.Control(func(fd uintptr) {
			for _, o := range options {
				errs = append(errs, o(int(fd)))
			}
		})
		return errors.Join(append(errs, err)...)
	}}
	c, err := netns.Do(n, func() (net.Conn, error) { return d.DialContext(tb.Context(), "tcp", address) })
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return timeout
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return refused
	}
	check(tb, err)
	defer c.Close()
	check(tb, c.SetDeadline(time.Now().Add(2*time.Second)))
	b, err := io.ReadAll(c)
	if err != nil {
		return fmt.Sprintf("%s and then %v", b, err)
	}
	return string(b)
}
