//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attackVerb makes this program an attacker in a container: its image has nothing else.
const attackVerb = "attack"

// patience of an attacker, for each thing it tries.
const attackPatience = 3 * time.Second

const victimsCredentials = "http://169.254.170.2/v2/credentials/any"

// attack does what the words say and prints what came of it.
func attack(words []string, out io.Writer) error {
	arg := ""
	if len(words) > 1 {
		arg = words[1]
	}
	switch words[0] {
	case "ask":
		fmt.Fprintln(out, ask(nil))
		return nil
	case "ask-on": // once there is a file of that name; it waits half a minute at most
		for begin := time.Now(); time.Since(begin) < 30*time.Second; <-time.After(10 * time.Millisecond) {
			if _, err := os.Stat(arg); err == nil {
				fmt.Fprintln(out, ask(nil))
				return nil
			}
		}
		return errors.New("nobody said go")
	case "route":
		return attackByRoute(arg, out)
	case "raw":
		return attackByFrames(arg, out)
	case "give":
		return giveSocket(arg)
	case "take":
		return takeSocket(arg, out)
	case "remove-address":
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrDel(lo, &netlink.Addr{IPNet: netlink.NewIPNet(net.IPv4(169, 254, 170, 2))})
	case "detach-program":
		return detachProgram()
	}
	return fmt.Errorf("unknown attack %q", words[0])
}

// ask gets the credentials of 169.254.170.2, over a socket that somebody else made if there is one.
func ask(socket *os.File) string {
	dial := new(net.Dialer).DialContext
	if socket != nil {
		dial = func(context.Context, string, string) (net.Conn, error) { return connect(socket) }
	}
	client := http.Client{Timeout: attackPatience, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	r, err := client.Get(victimsCredentials)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return r.Status + " " + string(b)
}

func connect(socket *os.File) (net.Conn, error) {
	if err := unix.Connect(int(socket.Fd()), &unix.SockaddrInet4{Addr: [4]byte{169, 254, 170, 2}, Port: 80}); err != nil {
		return nil, err
	}
	return net.FileConn(socket)
}

// attackByRoute leads the victim's address over the bridge to the victim, which takes NET_ADMIN.
func attackByRoute(victim string, out io.Writer) error {
	dst := netlink.NewIPNet(net.IPv4(169, 254, 170, 2))
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(victim)}); err != nil {
		return err
	}
	fmt.Fprintln(out, ask(nil))
	return nil
}

// attackByFrames sends segments that open a connection to ports of the victim, around every route, which takes NET_RAW,
// and says what answers to each: open, closed or nothing. Port 8080 is the victim's own, to see that the tool works.
func attackByFrames(victim string, out io.Writer) error {
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	mac, own, err := neighbour(eth, victim)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: eth.Index}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return err
	}
	for i, target := range []string{victim + ":8080", "169.254.170.2:80", "169.254.170.2:1", "169.254.169.254:80"} {
		to := netip.MustParseAddrPort(target)
		from := netip.AddrPortFrom(own, uint16(40000+i))
		if _, err := unix.Write(fd, synFrame(eth.HardwareAddr, mac, from, to)); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s\n", target, listenFor(fd, to, from))
	}
	return nil
}

// neighbour returns the victim's hardware address, and our own address on the bridge.
func neighbour(eth *net.Interface, victim string) (net.HardwareAddr, netip.Addr, error) {
	if c, err := net.DialTimeout("tcp", victim+":8080", attackPatience); err == nil { // makes the kernel ask for it
		c.Close()
	}
	entries, err := netlink.NeighList(eth.Index, netlink.FAMILY_V4)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	addrs, err := eth.Addrs()
	if err != nil || len(addrs) == 0 {
		return nil, netip.Addr{}, fmt.Errorf("no address on eth0: %w", err)
	}
	own := netip.MustParsePrefix(addrs[0].String()).Addr()
	for _, e := range entries {
		if e.IP.String() == victim && len(e.HardwareAddr) > 0 {
			return e.HardwareAddr, own, nil
		}
	}
	return nil, netip.Addr{}, errors.New("the victim does not answer ARP")
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// synFrame is an Ethernet frame with a TCP segment that opens a connection (RFC 791, RFC 9293).
func synFrame(from, to net.HardwareAddr, src, dst netip.AddrPort) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], 1)
	tcp[12], tcp[13] = 5<<4, 0x02 // length; SYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	pseudo := append(append([]byte{}, ip[12:20]...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	frame := append(append([]byte{}, to...), from...)
	return append(append(append(frame, 0x08, 0x00), ip...), tcp...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// listenFor waits for the answer of from to the segment of to.
func listenFor(fd int, from, to netip.AddrPort) string {
	const ethernet = 14
	b := make([]byte, 2048)
	for begin := time.Now(); time.Since(begin) < time.Second; {
		n, err := unix.Read(fd, b)
		if err != nil || n < ethernet+40 {
			continue
		}
		ip := b[ethernet:n]
		tcp := ip[int(ip[0]&0xf)*4:]
		src, _ := netip.AddrFromSlice(ip[12:16])
		if ip[9] != unix.IPPROTO_TCP || src != from.Addr() || len(tcp) < 20 ||
			binary.BigEndian.Uint16(tcp) != from.Port() || binary.BigEndian.Uint16(tcp[2:]) != to.Port() {
			continue
		}
		if tcp[13]&0x04 != 0 {
			return "closed"
		}
		return "open"
	}
	return "nothing"
}

// giveSocket makes a socket and gives it to the first that comes to the Unix socket at path.
func giveSocket(path string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.SetDeadline(time.Now().Add(10 * attackPatience)); err != nil {
		return err
	}
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := c.WriteMsgUnix([]byte("x"), unix.UnixRights(fd), nil); err != nil {
		return err
	}
	_, err = io.ReadAll(c) // the maker lives until the other has done with it
	return err
}

func takeSocket(path string, out io.Writer) error {
	var c net.Conn
	var err error
	for begin := time.Now(); time.Since(begin) < 10*attackPatience; <-time.After(10 * time.Millisecond) {
		if c, err = net.Dial("unix", path); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	defer c.Close()
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ask(os.NewFile(uintptr(fds[0]), "given")))
	return nil
}

// detachProgram detaches every program from the attacker's own network namespace, which takes --privileged.
func detachProgram() error {
	var own syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &own); err != nil {
		return err
	}
	detached := 0
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil || info.NetNs() == nil || uint64(info.NetNs().NetnsInode) != own.Ino {
			continue
		}
		if err := links.Link.Detach(); err != nil {
			return err
		}
		detached++
	}
	if err := links.Err(); err != nil {
		return err
	}
	if detached == 0 {
		return errors.New("there is no program to detach")
	}
	return nil
}

// attackMain is the program of a container.
func attackMain(words []string) int {
	if len(words) == 0 {
		return 2
	}
	if err := attack(words, os.Stdout); err != nil {
		fmt.Println("attack failed:", strings.TrimSpace(err.Error()))
		return 1
	}
	return 0
}
