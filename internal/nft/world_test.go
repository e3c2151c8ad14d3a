package nft_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

func TestMain(m *testing.M) {
	if actor.Main() {
		return
	}
	os.Exit(testkit.Main(m))
}

const (
	imds4      = "169.254.169.254"
	imds6      = "fd00:ec2::254"
	container4 = "10.9.2.2"
	container6 = "fd09:2::2"
	port       = 8099
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// world is a host between a container and the service: three namespaces in a row, joined by veth pairs. What the
// service gets are datagrams, each with a word in it.
type world struct {
	tb                       testing.TB
	service, host, container *netns.NS
	gateway                  net.HardwareAddr // of the host, as the container sees it
	words                    chan string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.NetNS)
	t.Parallel() // links take a second to come up
	w := &world{tb: t, words: make(chan string, 100)}
	for _, ns := range []**netns.NS{&w.service, &w.host, &w.container} {
		n, err := netns.New()
		check(t, err)
		t.Cleanup(func() { _ = n.Close() })
		*ns = n
	}
	join(t, w.service, w.host, "up")
	join(t, w.host, w.container, "br")
	w.in(w.service, func() error {
		return errors.Join(
			configure("lo", imds4+"/32", imds6+"/128"), configure("up", "10.9.1.1/24", "fd09:1::1/64"),
			route("10.9.2.0/24", "10.9.1.2"), route("fd09:2::/64", "fd09:1::2"))
	})
	w.in(w.host, func() error {
		return errors.Join(
			configure("peer", "10.9.1.2/24", "fd09:1::2/64"), configure("br", "10.9.2.1/24", "fd09:2::1/64"),
			route(imds4+"/32", "10.9.1.1"), route(imds6+"/128", "fd09:1::1"),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	w.in(w.container, func() error {
		return errors.Join(
			configure("peer", container4+"/24", container6+"/64"), route("0.0.0.0/0", "10.9.2.1"), route("::/0", "fd09:2::1"))
	})
	w.in(w.host, func() error {
		l, err := netlink.LinkByName("br")
		if err == nil {
			w.gateway = l.Attrs().HardwareAddr
		}
		return err
	})
	for _, to := range []string{imds4, imds6} {
		w.listen(to)
		w.eventually(func() bool { // the first packets may be lost while links come up
			w.send(w.container, to, "up")
			return w.got("up", 20*time.Millisecond)
		})
	}
	return w
}

// in runs f in a namespace. /proc/sys/net is the calling thread's.
func (w *world) in(n *netns.NS, f func() error) {
	w.tb.Helper()
	_, err := netns.Do(n, func() (struct{}, error) { return struct{}{}, f() })
	check(w.tb, err)
}

// join makes a veth pair: name in a, "peer" in b.
func join(tb testing.TB, a, b *netns.NS, name string) {
	tb.Helper()
	_, err := netns.Do(a, func() (struct{}, error) {
		return struct{}{}, netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer", PeerNamespace: netlink.NsFd(b.FD()),
		})
	})
	check(tb, err)
}

func configure(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func route(dst, via string) error {
	_, d, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: d, Gw: net.ParseIP(via)})
}

func (w *world) listen(addr string) {
	w.tb.Helper()
	c, err := netns.Do(w.service, func() (net.PacketConn, error) {
		return new(net.ListenConfig).ListenPacket(w.tb.Context(), "udp", net.JoinHostPort(addr, strconv.Itoa(port)))
	})
	check(w.tb, err)
	ended := make(chan struct{})
	w.tb.Cleanup(func() { _ = c.Close(); <-ended })
	go func() {
		defer close(ended)
		b := make([]byte, 100)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			select {
			case w.words <- string(b[:n]):
			case <-w.tb.Context().Done():
			}
		}
	}()
}

// socket makes a socket in n that sends to the service.
func (w *world) socket(n *netns.NS, to string) net.Conn {
	w.tb.Helper()
	c, err := netns.Do(n, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(w.tb.Context(), "udp", net.JoinHostPort(to, strconv.Itoa(port)))
	})
	check(w.tb, err)
	w.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// send is not sure to arrive; a socket of the namespace itself is told when it is refused.
func (w *world) send(n *netns.NS, to, word string) {
	w.tb.Helper()
	_, _ = w.socket(n, to).Write([]byte(word))
}

// got waits for a word, and drops the others.
func (w *world) got(word string, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case got := <-w.words:
			if got == word {
				return true
			}
		case <-timer.C:
			return false
		}
	}
}

// arrives says whether what send sends reaches the service. Behind it comes a word that does: packets do not overtake
// each other here.
func (w *world) arrives(send func(word string)) bool {
	w.tb.Helper()
	for len(w.words) > 0 {
		<-w.words
	}
	send("question")
	for _, to := range []string{imds4, imds6} {
		w.send(w.host, to, "end")
	}
	arrived, ends := false, 0
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	for ends < 2 {
		select {
		case got := <-w.words:
			arrived = arrived || got == "question"
			if got == "end" {
				ends++
			}
		case <-timer.C:
			w.tb.Fatal("the host itself does not reach the service")
		}
	}
	return arrived
}

// from sends by a socket of a namespace.
func (w *world) from(n *netns.NS, to string) func(string) {
	return func(word string) { w.send(n, to, word) }
}

// raw sends a frame to the gateway, past the container's own routes, addresses and rules.
func (w *world) raw(source, to string) func(string) { return w.flood([]string{source}, to) }

// flood sends one such frame from each source.
func (w *world) flood(sources []string, to string) func(string) {
	return func(word string) {
		w.tb.Helper()
		dst := netip.MustParseAddr(to)
		proto := uint16(unix.ETH_P_IP)
		if dst.Is6() {
			proto = unix.ETH_P_IPV6
		}
		w.in(w.container, func() error {
			l, err := netlink.LinkByName("peer")
			if err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: l.Attrs().Index, Halen: 6}
			copy(to.Addr[:], w.gateway)
			for _, source := range sources {
				err = errors.Join(err, unix.Sendto(fd, datagram(netip.MustParseAddr(source), dst, []byte(word)), 0, to))
			}
			return err
		})
	}
}

// datagram is an IP packet with UDP in it.
func datagram(src, dst netip.Addr, data []byte) []byte {
	udp := append([]byte{0x30, 0x39, port >> 8, port & 0xff, 0, byte(8 + len(data)), 0, 0}, data...)
	var pseudo, ip []byte
	if dst.Is4() {
		ip = []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
		sum := checksum(ip)
		ip[10], ip[11] = byte(sum>>8), byte(sum)
		return append(ip, udp...) // a checksum of 0 is none
	}
	ip = []byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	pseudo = append(append(pseudo, ip[8:]...), 0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP)
	sum := checksum(append(pseudo, udp...))
	udp[6], udp[7] = byte(sum>>8), byte(sum)
	return append(ip, udp...)
}

func checksum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(slices.Clip(b), 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (w *world) eventually(f func() bool) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.tb.Fatal("it does not happen")
		}
	}
}

func cgroupPath(cgroups string) (string, bool) {
	for line := range strings.Lines(cgroups) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, true
		}
	}
	return "", false
}

// mount is where the cgroup v2 hierarchy is.
func mount(tb testing.TB) string {
	tb.Helper()
	for _, dir := range testkit.Cgroup2Mounts() {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	tb.Fatal("no cgroup v2 hierarchy")
	return ""
}

// within runs f with this process in a cgroup: a socket belongs for ever to the one it was made in.
func within(tb testing.TB, dir string, f func()) {
	tb.Helper()
	move := func(dir string) {
		check(tb, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	check(tb, err)
	path, ok := cgroupPath(string(own))
	if !ok {
		tb.Fatalf("no cgroup of version 2 in %q", own)
	}
	move(dir)
	defer move(filepath.Join(mount(tb), path))
	f()
}
