//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/lab/ec2"
)

// metadata4 is the address that nothing but the host may reach.
var metadata4 = [4]byte{169, 254, 169, 254}

// frame writes an IP packet to the bridge's own address from inside the container, past its routes and addresses. It
// says that it is for the metadata service, and is told by mark, a port of UDP.
func (w *world) frame(tb testing.TB, id string, mark uint16) {
	tb.Helper()
	gateway, err := netns.Do(w.instance.NS(), func() (net.HardwareAddr, error) {
		l, err := netlink.LinkByName("docker0")
		if err != nil {
			return nil, err
		}
		return l.Attrs().HardwareAddr, nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	ip := net.ParseIP(w.must(tb, "inspect", "--format={{.NetworkSettings.Networks.bridge.IPAddress}}", id)).To4()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", w.pid(tb, id)))
	if err != nil {
		tb.Fatal(err)
	}
	defer ns.Close()
	_, err = netns.Do(ns, func() (struct{}, error) {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return struct{}{}, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return struct{}{}, err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: l.Attrs().Index, Halen: 6} // IPv4, in the network's order
		copy(to.Addr[:], gateway)
		return struct{}{}, unix.Sendto(fd, datagram(ip, mark), 0, to)
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// datagram is an IPv4 packet to the metadata service with an empty UDP datagram in it.
func datagram(from net.IP, mark uint16) []byte {
	p := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, from...), metadata4[:]...)
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	p = binary.BigEndian.AppendUint16(p, mark)
	p = binary.BigEndian.AppendUint16(p, mark)
	return append(p, 0, 8, 0, 0) // a checksum of 0 is none
}

// leaves says whether what send sends, with a mark, leaves the instance. Behind it the host sends something that does.
func (w *world) leaves(tb testing.TB, send func(mark uint16)) (left bool) {
	tb.Helper()
	const theirs, ours = 40001, 40002
	fd, err := netns.Do(w.instance.NS(), func() (int, error) {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return -1, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0300) // all, also what goes out
		if err != nil {
			return -1, err
		}
		err = errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: l.Attrs().Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
		return fd, err
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	send(theirs)
	c, err := netns.Do(w.instance.NS(), func() (net.Conn, error) {
		return new(net.Dialer).DialContext(tb.Context(), "udp4", fmt.Sprintf("169.254.169.254:%d", ours))
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("end")); err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, 2000)
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			tb.Fatalf("the host's own packet is not seen: %v", err)
		}
		if n < 28 || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP || [4]byte(b[16:20]) != metadata4 {
			continue
		}
		switch binary.BigEndian.Uint16(b[22:]) {
		case theirs:
			left = true
		case ours:
			return left
		}
	}
}

// TestGuardStopsRawFrames: ordinary sockets of a container with a role cannot reach the host's service, but frames can.
func TestGuardStopsRawFrames(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for name, role := range map[string]string{"with a role": "reader", "without": ""} {
			id := w.live(t, ec2.Container{Role: role})
			send := func(mark uint16) { w.frame(t, id, mark) }
			if !w.leaves(t, send) {
				t.Fatalf("without the guard, a raw frame of a container %s does not leave: the test proves nothing", name)
			}
			w.guard(t, "enforce")
			if w.leaves(t, send) {
				t.Errorf("a raw frame of a container %s reaches the host's metadata service", name)
			}
			w.guard(t, `"off"`)
		}
	})
}

func TestGuardOutlivesTheAgent(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.guard(t, "enforce")
	before := w.live(t, ec2.Container{Network: ec2.NetworkHost})
	if err := w.stopAgent(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if w.reaches(t, ec2.NetworkBridge) {
		t.Error("with the agent killed, a container on the bridge reaches the host's metadata service")
	}
	if r := w.exec(t, before, "get", "-timeout=700ms", hostMetadata); len(r.Stdout) > 0 {
		t.Errorf("with the agent killed, one on the host's network is answered %s", r.Stdout)
	}
	if r := w.host(t, nil, bin("taskrole"), "guard", "remove"); !strings.Contains(string(r.Stdout), "removed") {
		t.Errorf("taskrole guard remove: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	if !w.reaches(t, ec2.NetworkBridge) {
		t.Error("with the table removed, a container does not reach the service")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.startAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if w.reaches(t, ec2.NetworkBridge) {
		t.Error("the next agent does not put the table back")
	}
}
