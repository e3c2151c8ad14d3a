package attest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taskrole/internal/attest"
	"taskrole/internal/netns"
	"taskrole/internal/skl"
	"taskrole/internal/testkit"
)

func TestForgedPidfdIsRefused(t *testing.T) {
	for name, f := range forgeries(t) {
		if p, err := attest.ProcessFromFD(f); !errors.Is(err, attest.ErrNotPidfd) {
			t.Errorf("%s: ProcessFromFD = %v, %v, want ErrNotPidfd", name, p, err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file is still open", name)
		}
	}
}

// TestReusedProcessIDIsNotTheProcess runs in a process namespace of its own, where the next number can be chosen.
func TestReusedProcessIDIsNotTheProcess(t *testing.T) {
	testkit.Need(t, testkit.Root)
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), scriptVariable+"=reuse say=done")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil || out.String() != "done\n" {
		t.Errorf("%v: %s", err, out.String())
	}
}

// reuse is the script's step: two processes with the same number, one after the other.
func reuse() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	tree, err := attest.OpenTree()
	if err != nil {
		return err
	}
	for range 20 {
		first := exec.Command("sleep", "1000")
		if err := first.Start(); err != nil {
			return err
		}
		pid := first.Process.Pid
		p, err := attest.OpenProcess(pid)
		if err != nil {
			return err
		}
		kill(first)
		second, err := withID(pid)
		if err != nil {
			return err
		}
		err = differ(tree, p, second)
		kill(second)
		if err := errors.Join(err, p.Close()); err != nil {
			return err
		}
	}
	return nil
}

// withID starts a process with the number pid.
func withID(pid int) (*exec.Cmd, error) {
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return nil, err
		}
		c := exec.Command("sleep", "1000")
		if err := c.Start(); err != nil {
			return nil, err
		}
		if c.Process.Pid == pid {
			return c, nil
		}
		kill(c)
	}
	return nil, errors.New("the number did not come again")
}

func differ(tree *attest.Tree, p *attest.Process, second *exec.Cmd) error {
	q, err := attest.OpenProcess(second.Process.Pid)
	if err != nil {
		return err
	}
	defer q.Close()
	if p.Alive() || !q.Alive() || q.PID() != p.PID() {
		return fmt.Errorf("process %d alive %v, process %d alive %v", p.PID(), p.Alive(), q.PID(), q.Alive())
	}
	if p.Same(q) && attest.HasInode(p) {
		return errors.New("the second process is taken for the first")
	}
	if f, err := p.NetNS(); !errors.Is(err, attest.ErrGone) {
		return fmt.Errorf("namespace of the first: %v, %w", f, err)
	}
	if f, err := attest.NetNSFromProc(p); !errors.Is(err, attest.ErrGone) {
		return fmt.Errorf("namespace of the first by its number: %v, %w", f, err)
	}
	if attest.Dir(tree) == "" {
		return nil
	}
	if c, _, err := tree.Of(p); !errors.Is(err, attest.ErrGone) {
		return fmt.Errorf("cgroup of the first: %v, %w", c, err)
	}
	return nil
}

// TestListenerIsNoClient: where no connection is to be found the kernel answers with a listener on the client's
// address. A container could keep one there, in a cgroup of its own choice.
func TestListenerIsNoClient(t *testing.T) {
	w := newWorld(t)
	w.start("a", "tcp4 bind=169.254.169.254:5555 listen say=ok wait").until("ok")
	s, err := w.witness.Client(netip.MustParseAddrPort("169.254.170.2:80"), netip.MustParseAddrPort("169.254.169.254:5555"))
	if !errors.Is(err, attest.ErrNoSocket) {
		t.Errorf("Client = %+v, %v, want ErrNoSocket", s, err)
	}
}

// TestSamePortOnAnotherAddressIsAnotherClient: a dump of sockets, which libraries ask for, looks at the ports alone.
func TestSamePortOnAnotherAddressIsAnotherClient(t *testing.T) {
	w := newWorld(t)
	for cgroup, own := range map[string]string{"a": "169.254.169.254:5555", "b": "127.0.0.1:5555"} {
		w.start(cgroup, "tcp4 bind="+own+" connect=ADDR say=ok wait").until("ok")
	}
	for range 2 {
		conn := w.accept()
		want := "b"
		if conn.RemoteAddr().String() == "169.254.169.254:5555" {
			want = "a"
		}
		if s, err := w.ask(conn); err != nil || s.Cgroup != w.cgroup(want).ID {
			t.Errorf("%s: %+v, %v, want cgroup %s", conn.RemoteAddr(), s, err, want)
		}
	}
}

// TestPassedSocketStaysItsMakers: b uses a socket that a has made and connected. Whoever made it could have passed on
// the credentials as well, so it counts as a's, also when a and its cgroup are gone.
func TestPassedSocketStaysItsMakers(t *testing.T) {
	w := newWorld(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	fa, fb := os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	defer fa.Close()
	defer fb.Close()
	a := w.start("a/sub", "tcp4 connect=ADDR send say=sent wait", fa)
	w.start("b", "receive write=hello say=got wait", fb).until("got")
	a.until("sent")
	conn, sub := w.accept(), w.cgroup("a/sub")
	s, err := w.ask(conn)
	if err != nil || s.Cgroup != sub.ID {
		t.Errorf("used by b: %+v, %v, want a's cgroup %d", s, err, sub.ID)
	}
	a.finish()
	removeCgroup(t, w.dir("a/sub"))
	if s, err := w.ask(conn); err != nil || s.Cgroup != sub.ID {
		t.Errorf("with a gone: %+v, %v, want a's cgroup %d", s, err, sub.ID)
	}
	if in, err := w.tree.Within(s.Cgroup, w.cgroup("a")); in || !errors.Is(err, attest.ErrGone) {
		t.Errorf("a cgroup that has gone is within a: %v, %v, want ErrGone", in, err)
	}
}

// TestProcessThatEnteredTheNamespaceIsNotTheContainers: nsenter and its like keep their own cgroup.
func TestProcessThatEnteredTheNamespaceIsNotTheContainers(t *testing.T) {
	w := newWorld(t)
	client, err := netns.Do(w.ns, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(t.Context(), "tcp", "169.254.170.2:1")
	})
	check(t, err)
	defer client.Close()
	s, err := w.ask(w.accept())
	check(t, err)
	if in, err := w.tree.Within(s.Cgroup, w.cgroup("a")); in || err != nil {
		t.Errorf("Within = %v, %v, want false", in, err)
	}
}

// TestNobodyElseCanAnswerTheWitness: a process in the namespace with CAP_NET_ADMIN may send netlink messages to any
// socket of the namespace. Ours takes none but the kernel's.
func TestNobodyElseCanAnswerTheWitness(t *testing.T) {
	w := newWorld(t)
	id, err := attest.PortID(w.witness)
	check(t, err)
	diag := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	}
	attacker, err := netns.Do(w.ns, diag)
	check(t, err)
	defer unix.Close(attacker)
	victim, err := netns.Do(w.ns, diag) // a socket as one would make it without thinking of this
	check(t, err)
	defer unix.Close(victim)
	check(t, unix.Bind(victim, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	name, err := unix.Getsockname(victim)
	check(t, err)
	forged, _, _ := answer("127.0.0.1:40000", "169.254.170.2:80")
	send := func(id uint32) error {
		return unix.Sendto(attacker, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: id})
	}
	if err := send(name.(*unix.SockaddrNetlink).Pid); err != nil {
		t.Errorf("the attack does not work even where nothing hinders it: %v", err)
	}
	if err := send(id); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a forged answer to the witness: %v, want a refusal", err)
	}
}

// TestSteeredConnectionIsAttested is the three locks together, at the address clients use.
func TestSteeredConnectionIsAttested(t *testing.T) {
	testkit.Need(t, testkit.SkLookup)
	w := newWorld(t)
	dests := []netip.AddrPort{netip.MustParseAddrPort("169.254.170.2:80"), netip.MustParseAddrPort("[fd00:ec2::254]:80")}
	s, err := skl.Attach(w.ns.FD(), w.listener, dests)
	check(t, err)
	defer s.Close()
	for _, script := range []string{
		"tcp4 connect=169.254.170.2:80 say=ok wait",
		"tcp6 connect=[::ffff:169.254.170.2]:80 say=ok wait",
		"tcp6 connect=[fd00:ec2::254]:80 say=ok wait",
	} {
		w.start("a", script).until("ok")
		conn := w.accept()
		if port := addrPort(conn.LocalAddr()).Port(); port != 80 {
			t.Errorf("%s: our end has port %d, want the one the client dialled", script, port)
		}
		if s, err := w.ask(conn); err != nil || s.Cgroup != w.cgroup("a").ID {
			t.Errorf("%s: %+v, %v, want cgroup a", script, s, err)
		}
	}
}
