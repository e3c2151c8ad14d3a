package attest_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/attest"
	"taskrole/internal/netns"
)

// TestWitnessKnowsTheClient: what the kernel says of a client, by how it was made and what it did. An empty cgroup is
// ErrNoSocket.
func TestWitnessKnowsTheClient(t *testing.T) {
	const (
		est  = attest.Established
		fin2 = attest.FinWait2
	)
	for _, tt := range []struct {
		name, script string
		cgroup       string
		uid          uint32
		state        attest.State
	}{
		{"IPv4", "tcp4 connect=ADDR say=ok wait", "a", 0, est},
		{"another user", "user=1000 tcp4 connect=ADDR say=ok wait", "a", 1000, est},
		{"IPv6", "tcp6 connect=[fd00:ec2::254]:1 say=ok wait", "a", 0, est},
		{"IPv6 loopback", "tcp6 connect=[::1]:1 say=ok wait", "a", 0, est},
		{"IPv4 from an IPv6 socket", "tcp6 connect=[::ffff:169.254.170.2]:1 say=ok wait", "a", 0, est},
		{"IPv4 loopback", "tcp4 connect=127.0.0.1:1 say=ok wait", "a", 0, est},
		{"multipath TCP", "mptcp connect=ADDR say=ok wait", "a", 0, est},
		{"from another of its addresses", "tcp4 bind=169.254.169.254:0 connect=ADDR say=ok wait", "a", 0, est},
		{"bound to lo", "tcp4 device=lo connect=ADDR say=ok wait", "a", 0, est},
		{"bound to lo, IPv6", "tcp6 device=lo connect=[fd00:ec2::254]:1 say=ok wait", "a", 0, est},
		{"half closed", "tcp4 connect=ADDR shutdown say=ok wait", "a", 0, fin2},
		{"moved after the socket was made", "tcp4 move=b connect=ADDR say=ok wait", "a", 0, est},
		{"moved before", "move=b tcp4 connect=ADDR say=ok wait", "b", 0, est},
		{"in a cgroup below", "move=a/sub tcp4 connect=ADDR say=ok wait", "a/sub", 0, est},
		{"closed", "tcp4 connect=ADDR close say=ok wait", "", 0, 0},
		{"reset", "tcp4 connect=ADDR reset say=ok wait", "", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.start("a", tt.script).until("ok")
			conn := w.accept()
			got, err := w.ask(conn)
			if tt.cgroup == "" {
				if !errors.Is(err, attest.ErrNoSocket) {
					t.Errorf("Client = %+v, %v, want ErrNoSocket", got, err)
				}
				return
			}
			check(t, err)
			if got.State == attest.FinWait1 { // not acknowledged yet
				got.State = fin2
			}
			if want := w.cgroup(tt.cgroup); got.Cgroup != want.ID || got.UID != tt.uid || got.State != tt.state || got.Inode == 0 {
				t.Errorf("Client = %+v, want cgroup %d, user %d, state %d", got, want.ID, tt.uid, tt.state)
			}
			if in, err := w.tree.Within(got.Cgroup, w.cgroup(tt.cgroup[:1])); !in || err != nil {
				t.Errorf("the client is not within its cgroup: %v", err)
			}
		})
	}
}

func TestWitnessDoesNotKnowAClientWhoseProcessHasEnded(t *testing.T) {
	w := newWorld(t)
	c := w.start("a", "tcp4 connect=ADDR say=ok wait")
	c.until("ok")
	conn := w.accept()
	if s, err := w.ask(conn); err != nil {
		t.Errorf("alive: %+v, %v", s, err)
	}
	c.finish()
	if s, err := w.ask(conn); !errors.Is(err, attest.ErrNoSocket) {
		t.Errorf("ended: %+v, %v, want ErrNoSocket", s, err)
	}
}

// TestWitnessKnowsAClientThatWeClosed: it may still read what we have sent.
func TestWitnessKnowsAClientThatWeClosed(t *testing.T) {
	w := newWorld(t)
	w.start("a", "tcp4 connect=ADDR say=ok wait").until("ok")
	conn := w.accept()
	check(t, conn.CloseWrite())
	if s, err := w.ask(conn); err != nil || s.State != attest.CloseWait {
		t.Errorf("Client = %+v, %v, want CLOSE_WAIT", s, err)
	}
}

func TestWitnessTellsNamespacesApart(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.start("a", "tcp4 connect=ADDR say=ok wait").until("ok")
	conn := w.accept()
	if s, err := other.ask(conn); !errors.Is(err, attest.ErrNoSocket) {
		t.Errorf("another namespace's witness: %+v, %v, want ErrNoSocket", s, err)
	}
}

func TestWitnessClosedIsAnError(t *testing.T) {
	w := newWorld(t)
	check(t, w.witness.Close())
	a := netip.MustParseAddrPort("127.0.0.1:1")
	if s, err := w.witness.Client(a, a); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Client = %+v, %v, want ErrClosed", s, err)
	}
	if err := w.witness.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

// TestNamespaceIsFreeOnceEverythingIsClosed: a witness and an accepted connection keep a namespace alive, and nothing
// else of ours does after that. A veth's end in another namespace goes when the namespace does.
func TestNamespaceIsFreeOnceEverythingIsClosed(t *testing.T) {
	w := newWorld(t)
	outside, err := netns.New()
	check(t, err)
	defer outside.Close()
	_, err = netns.Do(outside, func() (struct{}, error) {
		return struct{}{}, netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "outside"},
			PeerName:  "inside", PeerNamespace: netlink.NsFd(w.ns.FD()),
		})
	})
	check(t, err)
	alive := func() bool {
		list, err := netns.Do(outside, net.Interfaces)
		check(t, err)
		return slices.ContainsFunc(list, func(i net.Interface) bool { return i.Name == "outside" })
	}
	c := w.start("a", "tcp4 connect=ADDR say=ok wait")
	c.until("ok")
	conn := w.accept()
	c.finish()
	check(t, errors.Join(w.ns.Close(), w.listener.Close(), conn.Close()))
	<-time.After(200 * time.Millisecond)
	if !alive() {
		t.Error("the namespace went while its witness was open")
	}
	check(t, w.witness.Close())
	for deadline := time.After(10 * time.Second); alive(); {
		select {
		case <-deadline:
			t.Fatal("the namespace is still there")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// answer is an answer of the kernel's about a socket in state 1 with the cgroup id 77, and the question it is to.
func answer(source, destination string) (b []byte, s, d netip.AddrPort) {
	s, d = netip.MustParseAddrPort(source), netip.MustParseAddrPort(destination)
	n := binary.NativeEndian
	question := attest.Ask(9, s, d)
	b = make([]byte, 16+72+12)
	n.PutUint32(b[0:], uint32(len(b)))
	n.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	n.PutUint32(b[8:], 9)
	m := b[16:]
	m[0], m[1] = question[16], 1
	copy(m[4:], question[24:24+48])
	n.PutUint32(m[4+36:], 0)
	n.PutUint32(m[64:], 1000)
	n.PutUint32(m[68:], 4711)
	n.PutUint16(m[72:], 12)
	n.PutUint16(m[74:], 21)
	n.PutUint64(m[76:], 77)
	return b, s, d
}

func TestAnswersAreChecked(t *testing.T) {
	n := binary.NativeEndian
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		ok     bool
	}{
		{"as it is", func(b []byte) []byte { return b }, true},
		{"more attributes", func(b []byte) []byte {
			b = append(b, 5, 0, 8, 0, 1, 0, 0, 0)
			n.PutUint32(b, uint32(len(b)))
			return b
		}, true},
		{"to another question", func(b []byte) []byte { n.PutUint32(b[8:], 8); return b }, false},
		{"another source port", func(b []byte) []byte { b[16+4]++; return b }, false},
		{"another source", func(b []byte) []byte { b[16+8]++; return b }, false},
		{"another destination port", func(b []byte) []byte { b[16+6]++; return b }, false},
		{"another destination", func(b []byte) []byte { b[16+24]++; return b }, false},
		{"connecting", func(b []byte) []byte { b[16+1] = 2; return b }, false},
		{"time-wait", func(b []byte) []byte { b[16+1] = 6; return b }, false},
		{"last acknowledgement", func(b []byte) []byte { b[16+1] = 9; return b }, false},
		{"listening", func(b []byte) []byte { b[16+1] = 10; return b }, false},
		{"no inode", func(b []byte) []byte { n.PutUint32(b[16+68:], 0); return b }, false},
		{"no cgroup", func(b []byte) []byte { n.PutUint16(b[16+74:], 20); return b }, false},
		{"cgroup cut short", func(b []byte) []byte { n.PutUint16(b[16+72:], 8); return b }, false},
		{"attribute too long", func(b []byte) []byte { n.PutUint16(b[16+72:], 13); return b }, false},
		{"no attributes", func(b []byte) []byte { n.PutUint32(b, 16+72); return b[:16+72] }, false},
		{"length beyond the message", func(b []byte) []byte { n.PutUint32(b, uint32(len(b)+1)); return b }, false},
		{"length of nothing", func(b []byte) []byte { n.PutUint32(b, 0); return b }, false},
		{"cut short", func(b []byte) []byte { return b[:60] }, false},
		{"only a header", func(b []byte) []byte { n.PutUint32(b, 16); return b[:16] }, false},
		{"nothing", func([]byte) []byte { return nil }, false},
		{"another type", func(b []byte) []byte { n.PutUint16(b[4:], 21); return b }, false},
		{"an error", func(b []byte) []byte { n.PutUint16(b[4:], unix.NLMSG_ERROR); return b }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, addrs := range [][2]string{
				{"127.0.0.1:40000", "169.254.170.2:80"},
				{"[fd00:ec2::254]:40000", "[fd00:ec2::254]:80"},
			} {
				b, source, destination := answer(addrs[0], addrs[1])
				got, err := attest.Answer(tt.change(b), 9, source, destination)
				if want := (attest.Socket{Cgroup: 77, UID: 1000, Inode: 4711, State: attest.Established}); tt.ok && (got != want || err != nil) {
					t.Errorf("%+v, %v, want %+v", got, err, want)
				}
				if !tt.ok && err == nil {
					t.Errorf("%+v, want an error", got)
				}
			}
		})
	}
}

func TestAnswersSayWhyNot(t *testing.T) {
	b, source, destination := answer("127.0.0.1:40000", "169.254.170.2:80")
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_ERROR)
	for errno, want := range map[unix.Errno]error{unix.ENOENT: attest.ErrNoSocket, unix.EPERM: unix.EPERM} {
		binary.NativeEndian.PutUint32(b[16:], -uint32(errno))
		if _, err := attest.Answer(b, 9, source, destination); !errors.Is(err, want) {
			t.Errorf("errno %d: %v, want %v", errno, err, want)
		}
	}
}

// FuzzAnswer: whatever comes, an answer that is taken for a client names exactly the socket that was asked for.
func FuzzAnswer(f *testing.F) {
	for _, addrs := range [][2]string{{"127.0.0.1:40000", "169.254.170.2:80"}, {"[::1]:40000", "[fd00:ec2::254]:80"}} {
		b, _, _ := answer(addrs[0], addrs[1])
		f.Add(b)
		f.Add(b[:40])
		b[4], b[5] = 2, 0
		f.Add(b)
	}
	_, source, destination := answer("127.0.0.1:40000", "169.254.170.2:80")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := attest.Answer(b, 9, source, destination)
		if err != nil {
			if s != (attest.Socket{}) {
				t.Errorf("%+v beside an error", s)
			}
			return
		}
		if s.Inode == 0 || s.State == 10 || s.State == 0 {
			t.Errorf("%+v is no living client", s)
		}
		want := attest.Ask(9, source, destination)[24:28] // the ports
		if string(b[20:24]) != string(want) {
			t.Errorf("ports % x, asked for % x", b[20:24], want)
		}
	})
}

func BenchmarkClient(b *testing.B) {
	w := newWorld(b)
	w.start("a", "tcp4 connect=ADDR say=ok wait").until("ok")
	conn := w.accept()
	local, remote := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	s, err := w.witness.Client(local, remote)
	check(b, err)
	a := w.cgroup("a")
	nobody := netip.MustParseAddrPort("10.9.9.9:9")
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.witness.Client(local, remote); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unknown", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.witness.Client(local, nobody); !errors.Is(err, attest.ErrNoSocket) {
				b.Fatal(err)
			}
		}
	})
	b.Run("and within its cgroup", func(b *testing.B) {
		for b.Loop() {
			s, err := w.witness.Client(local, remote)
			check(b, err)
			if ok, err := w.tree.Within(s.Cgroup, a); !ok {
				b.Fatal(err)
			}
		}
	})
	b.Run("path of a cgroup", func(b *testing.B) {
		for b.Loop() {
			_, err := w.tree.Path(s.Cgroup)
			check(b, err)
		}
	})
}

func BenchmarkOpenWitness(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		witness, err := attest.OpenWitness(w.ns)
		check(b, err)
		check(b, witness.Close())
	}
}

func BenchmarkOpenProcess(b *testing.B) {
	pid := sleeper(b).Process.Pid
	for b.Loop() {
		p, err := attest.OpenProcess(pid)
		check(b, err)
		check(b, p.Close())
	}
}

// BenchmarkConnection is what the question adds to a connection.
func BenchmarkConnection(b *testing.B) {
	w := newWorld(b)
	to := &net.TCPAddr{IP: net.IPv4(169, 254, 170, 2), Port: 1}
	for _, asking := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "asking"}[asking], func(b *testing.B) {
			_, err := netns.Do(w.ns, func() (struct{}, error) {
				for b.Loop() {
					if err := connection(w, to, asking); err != nil {
						return struct{}{}, err
					}
				}
				return struct{}{}, nil
			})
			check(b, err)
		})
	}
}

func connection(w *world, to *net.TCPAddr, asking bool) error {
	client, err := net.DialTCP("tcp4", nil, to)
	if err != nil {
		return err
	}
	defer client.Close()
	_ = client.SetLinger(0)
	_ = w.listener.SetDeadline(time.Now().Add(10 * time.Second))
	server, err := w.listener.AcceptTCP()
	if err != nil {
		return err
	}
	defer server.Close()
	if asking {
		_, err = w.ask(server)
	}
	return err
}
