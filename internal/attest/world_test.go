package attest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/attest"
	"taskrole/internal/netns"
	"taskrole/internal/readiness"
	"taskrole/internal/testkit"
)

// scriptVariable makes this test binary a client that does what the script says; see follow.
const scriptVariable = "TASKROLE_TEST_SCRIPT"

func TestMain(m *testing.M) {
	if script := os.Getenv(scriptVariable); script != "" {
		if err := follow(script); err != nil {
			fmt.Println("script:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testkit.Main(m))
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// sleeper starts a process that does nothing.
func sleeper(tb testing.TB) *exec.Cmd {
	tb.Helper()
	c := exec.Command("sleep", "1000")
	check(tb, c.Start())
	tb.Cleanup(func() { kill(c) })
	return c
}

func kill(c *exec.Cmd) {
	_ = c.Process.Kill()
	_ = c.Wait()
}

func open(tb testing.TB, pid int) *attest.Process {
	tb.Helper()
	p, err := attest.OpenProcess(pid)
	check(tb, err)
	tb.Cleanup(func() { _ = p.Close() })
	return p
}

// ended is closed when p's process has ended.
func ended(tb testing.TB, p *attest.Process) <-chan struct{} {
	tb.Helper()
	set, err := readiness.NewSet()
	check(tb, err)
	tb.Cleanup(func() { _ = set.Close() })
	c := make(chan struct{})
	_, err = set.Watch(p, func() { close(c) })
	check(tb, err)
	return c
}

// wait waits for ended.
func wait(tb testing.TB, ended <-chan struct{}) {
	tb.Helper()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		tb.Fatal("nobody noticed that the process has ended")
	}
}

// world is a namespace with a listener and a witness, and cgroups a, a/sub and b.
type world struct {
	tb       testing.TB
	ns       *netns.NS
	listener *net.TCPListener
	witness  *attest.Witness
	tree     *attest.Tree
	base     string // the cgroup that a and b are in
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.NetNS, testkit.Cgroup2)
	w := &world{tb: tb}
	var err error
	w.ns, err = netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = w.ns.Close() })
	_, err = w.ns.AddAddresses([]netip.Addr{
		netip.MustParseAddr("169.254.170.2"),
		netip.MustParseAddr("169.254.169.254"),
		netip.MustParseAddr("fd00:ec2::254"),
	})
	check(tb, err)
	w.listener, err = w.ns.Listen()
	check(tb, err)
	tb.Cleanup(func() { _ = w.listener.Close() })
	w.witness, err = attest.OpenWitness(w.ns)
	check(tb, err)
	tb.Cleanup(func() { _ = w.witness.Close() })
	w.tree = tree(tb)
	w.base = fmt.Sprintf("/taskrole-test-%d-%s", os.Getpid(), strings.ReplaceAll(tb.Name(), "/", "_"))
	for _, d := range []string{"", "a", "a/sub", "b"} {
		check(tb, os.MkdirAll(w.dir(d), 0o755))
	}
	tb.Cleanup(func() {
		for _, d := range []string{"a/sub", "a", "b", ""} {
			removeCgroup(tb, w.dir(d))
		}
	})
	return w
}

// removeCgroup waits for the last process to leave: it is gone for its parent before it is gone from its cgroup.
func removeCgroup(tb testing.TB, dir string) {
	tb.Helper()
	deadline := time.After(10 * time.Second)
	for {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		select {
		case <-deadline:
			tb.Errorf("remove cgroup %s: %v", dir, err)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func tree(tb testing.TB) *attest.Tree {
	tb.Helper()
	t, err := attest.OpenTree()
	check(tb, err)
	tb.Cleanup(func() { _ = t.Close() })
	return t
}

// dir is where the world's cgroup is in the file system.
func (w *world) dir(cgroup string) string {
	return filepath.Join(attest.Dir(w.tree), w.base, cgroup)
}

// cgroup is the world's cgroup, by what the file system says.
func (w *world) cgroup(name string) attest.Cgroup {
	w.tb.Helper()
	var st unix.Stat_t
	check(w.tb, unix.Stat(w.dir(name), &st))
	return attest.Cgroup{ID: st.Ino, Path: filepath.Join(w.base, name)}
}

// client is a process that follows a script.
type client struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Scanner
}

// start runs a script in the world's namespace and in one of its cgroups. ADDR in it is an IPv4 address of the
// listener.
func (w *world) start(cgroup, script string, files ...*os.File) *client {
	w.tb.Helper()
	dir, err := os.Open(w.dir(cgroup))
	check(w.tb, err)
	defer dir.Close()
	inR, inW, err := os.Pipe()
	check(w.tb, err)
	outR, outW, err := os.Pipe()
	check(w.tb, err)
	c := exec.Command("/proc/self/exe")
	c.Env = []string{
		scriptVariable + "=" + strings.ReplaceAll(script, "ADDR", "169.254.170.2:1"),
		"CGROUPS=" + w.dir(""),
		"GORACE=atexit_sleep_ms=0", // else every client takes a second to end under the race detector
	}
	c.Stdin, c.Stdout, c.Stderr, c.ExtraFiles = inR, outW, os.Stderr, files
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	_, err = netns.Do(w.ns, func() (struct{}, error) { return struct{}{}, c.Start() })
	check(w.tb, err)
	_, _ = inR.Close(), outW.Close()
	w.tb.Cleanup(func() { _ = inW.Close(); _ = c.Wait(); _ = outR.Close() })
	return &client{w.tb, c, inW, bufio.NewScanner(outR)}
}

// until waits for the client to say a word.
func (c *client) until(word string) {
	c.tb.Helper()
	if !c.out.Scan() || c.out.Text() != word {
		c.tb.Fatalf("the client said %q, want %q", c.out.Text(), word)
	}
}

// finish lets the client go on, and waits for its end.
func (c *client) finish() {
	c.tb.Helper()
	check(c.tb, c.in.Close())
	check(c.tb, c.cmd.Wait())
}

func (w *world) accept() *net.TCPConn {
	w.tb.Helper()
	check(w.tb, w.listener.SetDeadline(time.Now().Add(10*time.Second)))
	c, err := w.listener.AcceptTCP()
	check(w.tb, err)
	w.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) ask(c net.Conn) (attest.Socket, error) {
	return w.witness.Client(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// follow does one step for each word. The scripts' socket is one: tcp4, tcp6 and mptcp make it, the other steps use it.
func follow(script string) error {
	in, fd := bufio.NewScanner(os.Stdin), -1
	for step := range strings.FieldsSeq(script) {
		op, arg, _ := strings.Cut(step, "=")
		var err error
		switch op {
		case "tcp4", "tcp6", "mptcp":
			fd, err = socket(op)
		case "device":
			err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, arg)
		case "bind":
			err = unix.Bind(fd, sockaddr(arg))
		case "listen":
			err = unix.Listen(fd, 8)
		case "connect":
			err = unix.Connect(fd, sockaddr(arg))
		case "shutdown":
			err = unix.Shutdown(fd, unix.SHUT_WR)
		case "reset":
			err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			_ = unix.Close(fd)
		case "close":
			err = unix.Close(fd)
		case "user":
			var uid int
			if uid, err = strconv.Atoi(arg); err == nil {
				err = syscall.Setuid(uid)
			}
		case "move":
			pid := strconv.Itoa(os.Getpid())
			err = os.WriteFile(filepath.Join(os.Getenv("CGROUPS"), arg, "cgroup.procs"), []byte(pid), 0)
		case "send":
			err = unix.Sendmsg(3, []byte("x"), unix.UnixRights(fd), nil, 0)
		case "receive":
			fd, err = receive(3)
		case "write":
			_, err = unix.Write(fd, []byte(arg))
		case "reuse":
			err = reuse()
		case "say":
			fmt.Println(arg)
		case "wait":
			if !in.Scan() {
				return nil
			}
		default:
			err = errors.New("unknown step")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

func socket(kind string) (int, error) {
	switch kind {
	case "tcp6":
		return unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	case "mptcp":
		return unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	default:
		return unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	}
}

// receive takes the descriptor out of one message on a Unix socket.
func receive(from int) (int, error) {
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(from, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}

func sockaddr(s string) unix.Sockaddr {
	a := netip.MustParseAddrPort(s)
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
