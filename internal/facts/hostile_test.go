package facts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unsafe"

	"golang.org/x/sys/unix"

	"taskrole/internal/address"
	"taskrole/internal/diagnose"
	"taskrole/internal/facts"
	"taskrole/internal/netns"
	"taskrole/internal/testkit"
)

const command = "\x1b]0;owned\a\x1b[31m\u009b2J\u202e"

// fit checks that nothing in the facts is a command to a terminal.
func fit(t *testing.T, name string, f *diagnose.Facts) {
	t.Helper()
	text := fmt.Sprintf("%+v", f)
	if i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '\u202e' }); i >= 0 {
		t.Errorf("%s: %q is in the facts", name, text[max(0, i-40):min(len(text), i+40)])
	}
}

// TestFilesOfAnEnemy: as the file of profiles, by every way that a container has to name one.
func TestFilesOfAnEnemy(t *testing.T) {
	testkit.Need(t, testkit.Root)
	root := tree(t, map[string]string{"home/x": "", "large": strings.Repeat("[x]\n", 1<<20), command: "[" + command + "]\nregion=" + command + "\n"})
	for link, to := range map[string]string{"loop": "/loop", "loop2/x": "/loop2/x", "shadow": "/etc/shadow", "one": "/proc/1/root/etc/shadow", "fd": "/proc/self/fd/0"} {
		os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o755)
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	sparse(t, filepath.Join(root, "sparse"), "")
	if err := os.Truncate(filepath.Join(root, "sparse"), 10<<30); err != nil {
		t.Fatal(err)
	}
	syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644)
	syscall.Mknod(filepath.Join(root, "zero"), syscall.S_IFCHR|0o644, 1<<8|5)
	l, err := net.Listen("unix", filepath.Join(root, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for file, want := range map[string]diagnose.State{
		"/loop": diagnose.Odd, "/loop2/x": diagnose.Odd, "/shadow": diagnose.Missing, "/one": diagnose.Missing, "/fd": diagnose.Missing, "/pipe": diagnose.Odd, "/zero": diagnose.Odd,
		"/sparse": diagnose.Odd, "/large": diagnose.Odd, "/home": diagnose.Odd, "/s": diagnose.Odd, "/" + command: diagnose.Read, strings.Repeat("/x", 3000): diagnose.Odd,
	} {
		begin := time.Now()
		f := process(t, root, 0, "HOME=/home"+command, "AWS_SHARED_CREDENTIALS_FILE="+file, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="+file, "AWS_PROFILE="+command,
			"AWS_CONFIG_FILE="+file, "HTTPS_PROXY=http://"+command)
		if f.Credentials.State != want || f.Config.State != want || f.TokenFile.State != want {
			t.Errorf("%.40q: %s %s %s (%s), want %s", file, f.Credentials.State, f.Config.State, f.TokenFile.State, f.Credentials.Why, want)
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("%.40q took %v", file, d)
		}
		fit(t, file, f)
	}
}

// endless writes a piece again and again until the other side has had enough, with a tick between two or none.
func endless(first, piece string, every time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.WriteString(c, first)
		tick := time.NewTicker(max(every, 1))
		defer tick.Stop()
		for err == nil {
			if _, err = io.WriteString(c, piece); every > 0 {
				<-tick.C
			}
		}
	}
}

func says(text string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, text) }
}

// TestEndpointsOfAnEnemy: all places that are asked answer as it likes.
func TestEndpointsOfAnEnemy(t *testing.T) {
	testkit.Need(t, testkit.Root)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := ns.AddAddresses([]netip.Addr{address.IMDS.Addr()}); err != nil {
		t.Fatal(err)
	}
	var how atomic.Pointer[func(net.Conn)]
	var elsewhere atomic.Int32
	for addr, f := range map[string]func(net.Conn){
		"127.0.0.1:80": func(c net.Conn) { (*how.Load())(c) }, address.IMDS.String(): func(c net.Conn) { (*how.Load())(c) }, "127.0.0.1:81": func(net.Conn) { elsewhere.Add(1) },
	} {
		l, err := netns.Do(ns, func() (net.Listener, error) { return net.Listen("tcp4", addr) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				go func() { c.Read(make([]byte, 4096)); f(c); c.Close() }()
			}
		}()
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	root := tree(t, map[string]string{"home/x": ""})
	for name, f := range map[string]func(net.Conn){
		"drips":              endless(ok, "x", 50*time.Millisecond),
		"drips a body":       endless(ok+"Content-Length: 4000\r\n\r\n", "x", 50*time.Millisecond),
		"body without end":   endless(ok+"\r\n", strings.Repeat("x", 4096), 0),
		"headers":            endless(ok, "X: "+strings.Repeat("x", 4096)+"\r\n", 0),
		"one header":         endless(ok+"X: ", strings.Repeat("x", 4096), 0),
		"wait, wait":         endless("", "HTTP/1.1 103 Early Hints\r\n\r\n", 0),
		"redirects":          says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:81/\r\nContent-Length: 0\r\n\r\n"),
		"commands":           says("HTTP/1.1 500 \x1b[31m\r\n\r\n" + `{"code": "` + command + `", "message": "` + command + `"}`),
		"commands as text":   says("HTTP/1.1 403 No\r\n\r\n" + command),
		"commands as a role": says(ok + "\r\n" + command + "\n" + command),
		"odd token":          says(ok + "\r\na\r\nX-Evil: b"),
		"odd document":       says(ok + "\r\n" + `{"RoleArn": "` + strings.Repeat("x", 10000) + `", "AccessKeyId": 7, "Expiration": {}, "Token": [` + strings.Repeat("[", 20000)),
		"no HTTP":            says("SSH-2.0-OpenSSH\r\n"),
		"nothing":            says(""),
	} {
		how.Store(&f)
		p, _ := opened(t, ns, root, 0, "HOME=/home", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/creds")
		begin := time.Now()
		got := p.Look(t.Context())
		if d := time.Since(begin); d > 4*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
		if got.Container.Outcome == diagnose.NotAsked || got.IMDS.Token.Outcome == diagnose.NotAsked || len(got.Container.Message) > 2000 || len(got.IMDS.Role) > 2000 {
			t.Errorf("%s: %+v %+v", name, got.Container, got.IMDS)
		}
		fit(t, name, got)
	}
	if n := elsewhere.Load(); n > 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// hold gives the process an environment that is somewhere else: of 16 MiB, or in memory that nobody fills.
func hold(how string) error {
	const size = 16 << 20
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	at := uintptr(unsafe.Pointer(&b[0]))
	if how == "large" {
		copy(b, "HOME=/large\x00")
		b[size-1] = 1
	} else if err := unfilled(at, size); err != nil {
		return err
	}
	return environAt(uint64(at), uint64(at+size))
}

// environAt tells the kernel where the environment is, as every process may (PR_SET_MM_MAP).
func environAt(start, end uint64) error {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	field := func(n int) (v uint64) { // as proc(5) counts
		v, _ = strconv.ParseUint(strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))[n-3], 10, 64)
		return v
	}
	heap, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	m := [13]uint64{
		field(26), field(27), field(45), field(46), field(47), uint64(heap), field(28), field(48), field(49), start, end, 0, 0xffffffff << 32, // the last: no auxv, no exe
	}
	const set, sub = 35, 14 // PR_SET_MM, PR_SET_MM_MAP
	return unix.Prctl(set, sub, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m), 0)
}

// unfilled makes whoever touches the memory wait for a user's program, which never comes.
func unfilled(at, size uintptr) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	api := [3]uint64{0xaa}                                                                                      // UFFD_API
	register := [4]uint64{uint64(at), uint64(size), 1}                                                          // UFFDIO_REGISTER_MODE_MISSING
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc018aa3f, uintptr(unsafe.Pointer(&api))); errno != 0 { // UFFDIO_API
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, 0xc020aa00, uintptr(unsafe.Pointer(&register))); errno != 0 { // UFFDIO_REGISTER
		return errno
	}
	return nil
}

func TestALargeEnvironmentIsReadInPart(t *testing.T) {
	f := process(t, tree(t, map[string]string{"home/x": ""}), 0, holding+"=large")
	if f.Subject.Home != "/large" || len(f.Unseen) != 1 || !strings.Contains(f.Unseen[0], "the rest of its environment") {
		t.Errorf("home %q, unseen %q", f.Subject.Home, f.Unseen)
	}
}

// TestMemoryThatCannotBeReadIsSaid: a process keeps its environment from whoever looks.
func TestMemoryThatCannotBeReadIsSaid(t *testing.T) {
	f := process(t, tree(t, map[string]string{"home/x": ""}), 0, holding+"=unfilled", "AWS_PROFILE=x")
	if len(f.Unseen) != 1 || !strings.Contains(f.Unseen[0], "part of its environment") {
		t.Errorf("unseen %q", f.Unseen)
	}
}

// TestAFileSystemThatDoesNotAnswerIsGivenUp: it is the container's own, served by a program that waits.
func TestAFileSystemThatDoesNotAnswerIsGivenUp(t *testing.T) {
	testkit.Need(t, testkit.Root)
	root := tree(t, map[string]string{"home/.aws/x": "", "usr/lib/x": ""})
	for _, dir := range []string{"home/.aws", "usr/lib"} {
		dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, dir)
		if err := syscall.Mount("none", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev.Fd())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close(); syscall.Unmount(dir, syscall.MNT_DETACH) }) // who waits is told that nobody is there
	}
	begin := time.Now()
	f := running(t, root, "bin/python3", nil, "HOME=/home")
	said := strings.Join(f.Unseen, "\n")
	if d := time.Since(begin); !strings.Contains(said, "its files: it took too long") || !strings.Contains(said, "the SDKs in its files: it took too long") || d > 4*time.Second {
		t.Errorf("%v, unseen %q", d, f.Unseen)
	}
}

// TestAProcessThatEndsMeanwhile is not taken for another, and the report says so.
func TestAProcessThatEndsMeanwhile(t *testing.T) {
	p, cmd := opened(t, nil, tree(t, map[string]string{"home/.aws/credentials": credentialsFile}), 0, "HOME=/home")
	cmd.Process.Kill()
	cmd.Wait()
	f := p.Look(t.Context())
	if said := strings.Join(f.Unseen, "\n"); !strings.Contains(said, "ended while it was looked at") || f.Net.Known || f.Subject.Home != "/home" {
		t.Errorf("%+v", f)
	}
}

// TestTheNumberOfAProcessBecomesAnothers: what is held open is the process, not its number.
func TestTheNumberOfAProcessBecomesAnothers(t *testing.T) {
	testkit.Need(t, testkit.Root)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{reusing + "=1", quick}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	out, err := cmd.Output()
	var f diagnose.Facts
	if err != nil || json.Unmarshal(out, &f) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if f.Subject.Home != "/first" || f.Net.Known || f.Credentials.State == diagnose.Read || !strings.Contains(strings.Join(f.Unseen, "\n"), "ended while it was looked at") {
		t.Errorf("%s", out)
	}
}

// reuse is the first process of a pid namespace: it opens a child, and has another child with the same number when it
// looks.
func reuse() error {
	if err := errors.Join(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("proc", "/proc", "proc", 0, "")); err != nil {
		return err
	}
	child := func(home string) (*exec.Cmd, io.Closer, error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{waiting + "=-1 -", "HOME=" + home, quick}
		stdin, err := cmd.StdinPipe()
		return cmd, stdin, errors.Join(err, cmd.Start())
	}
	first, stdin, err := child("/first")
	if err != nil {
		return err
	}
	pid := first.Process.Pid
	p, err := facts.Open(context.Background(), pid)
	if err != nil {
		return err
	}
	stdin.Close()
	first.Wait()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return err
		}
		second, stdin, err := child("/second")
		if err != nil {
			return err
		}
		if second.Process.Pid == pid {
			b, err := json.Marshal(p.Look(context.Background()))
			os.Stdout.Write(b)
			stdin.Close()
			second.Wait()
			return err
		}
		stdin.Close() // a thread of ours was quicker
		second.Wait()
	}
	return errors.New("no process got the number again")
}
