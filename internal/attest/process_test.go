package attest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/attest"
	"taskrole/internal/netns"
)

func TestOpenProcessKnowsTheProcess(t *testing.T) {
	c := sleeper(t)
	p, again, other := open(t, c.Process.Pid), open(t, c.Process.Pid), open(t, sleeper(t).Process.Pid)
	if p.PID() != c.Process.Pid || p.Start() == 0 || !p.Alive() {
		t.Errorf("process %d, start %d, alive %v", p.PID(), p.Start(), p.Alive())
	}
	if !p.Same(again) || p.Same(other) {
		t.Error("Same does not tell processes apart")
	}
	for _, q := range []*attest.Process{p, again, other} {
		attest.Forget(q)
	}
	if !p.Same(again) || p.Same(other) {
		t.Error("without pidfs Same does not tell processes apart")
	}
	ours, err := netns.Current()
	check(t, err)
	defer ours.Close()
	for name, netNS := range map[string]func() (*os.File, error){
		"pidfd": p.NetNS,
		"proc":  func() (*os.File, error) { return attest.NetNSFromProc(p) },
	} {
		f, err := netNS()
		check(t, err)
		theirs, err := netns.FromFile(f)
		check(t, err)
		if same, err := ours.Same(theirs); !same || err != nil {
			t.Errorf("by %s the child is in another network namespace: %v", name, err)
		}
		check(t, theirs.Close())
	}
}

func TestOpenProcessThatIsNotThere(t *testing.T) {
	c := sleeper(t)
	kill(c)
	if p, err := attest.OpenProcess(c.Process.Pid); !errors.Is(err, attest.ErrGone) {
		t.Errorf("OpenProcess of a process that was waited for = %v, %v, want ErrGone", p, err)
	}
	if p, err := attest.OpenProcess(-1); err == nil {
		t.Errorf("OpenProcess(-1) = %v", p)
	}
}

func TestEndedIsClosedWhenTheProcessBecomesAZombie(t *testing.T) {
	c := sleeper(t)
	p, watched := open(t, c.Process.Pid), open(t, c.Process.Pid)
	end := ended(t, watched)
	select {
	case <-end:
		t.Fatal("ended while alive")
	case <-time.After(20 * time.Millisecond):
	}
	check(t, c.Process.Kill())
	wait(t, end)
	wait(t, ended(t, p)) // asked for only now
	if p.Alive() {
		t.Error("a zombie is alive")
	}
	if f, err := p.NetNS(); !errors.Is(err, attest.ErrGone) {
		t.Errorf("NetNS of a zombie = %v, %v, want ErrGone", f, err)
	}
	if q, err := attest.OpenProcess(c.Process.Pid); !errors.Is(err, attest.ErrGone) {
		t.Errorf("OpenProcess of a zombie = %v, %v, want ErrGone", q, err)
	}
}

func TestCloseEndsTheWatchAndNotTheProcess(t *testing.T) {
	p, err := attest.OpenProcess(sleeper(t).Process.Pid)
	check(t, err)
	end := ended(t, p)
	check(t, p.Close())
	select {
	case <-end:
		t.Error("Close said that the process has ended")
	default:
	}
	if err := p.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if f, err := p.NetNS(); err == nil {
		t.Errorf("NetNS of a closed process: %v", f.Name())
	}
}

// pidfd is a descriptor such as a hook makes it.
func pidfd(t *testing.T, pid, flags int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, flags)
	check(t, err)
	return os.NewFile(uintptr(fd), "pidfd")
}

// pass sends a descriptor over a Unix socket and returns what arrives.
func pass(t *testing.T, f *os.File) *os.File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	check(t, unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0))
	check(t, f.Close())
	fd, err := receive(pair[1])
	check(t, err)
	return os.NewFile(uintptr(fd), "received")
}

func TestProcessFromFDThatWasPassed(t *testing.T) {
	for name, flags := range map[string]int{"blocking": 0, "non-blocking": unix.PIDFD_NONBLOCK} {
		t.Run(name, func(t *testing.T) {
			c := sleeper(t)
			f := pass(t, pidfd(t, c.Process.Pid, flags))
			p, err := attest.ProcessFromFD(f)
			check(t, err)
			defer p.Close()
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Error("the file that was passed is still open")
			}
			if p.PID() != c.Process.Pid || !p.Same(open(t, c.Process.Pid)) {
				t.Errorf("process %d, want %d", p.PID(), c.Process.Pid)
			}
			end := ended(t, p)
			check(t, c.Process.Kill())
			wait(t, end)
		})
	}
}

func TestProcessFromFDOfAProcessThatHasEnded(t *testing.T) {
	for _, reaped := range []bool{false, true} {
		c := sleeper(t)
		f, watch := pidfd(t, c.Process.Pid, 0), open(t, c.Process.Pid)
		check(t, c.Process.Kill())
		wait(t, ended(t, watch))
		if reaped {
			_ = c.Wait()
		}
		if p, err := attest.ProcessFromFD(f); !errors.Is(err, attest.ErrGone) {
			t.Errorf("reaped %v: ProcessFromFD = %v, %v, want ErrGone", reaped, p, err)
		}
	}
}

func TestPidInfo(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
		ok   bool
	}{
		{"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t7\nPid:\t4711\nNSpid:\t4711\n", 4711, true},
		{"Pid:\t-1\nNSpid:\t-1\n", -1, true},
		{"Pid:\t0\n", 0, true},
		{"pos:\t0\nNSpid:\t4711\n", 0, false},
		{"Pid:\t\n", 0, false},
		{"Pid:\t99999999999\n", 0, false},
		{"", 0, false},
	} {
		got, err := attest.PidInfo(tt.text)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("PidInfo(%q) = %d, %v, want %d", tt.text, got, err, tt.want)
		}
	}
}

// statAfterName are the fields of /proc/PID/stat after the name, with the start time 8172.
const statAfterName = " S 1 2 3 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 8172 5 1 18446744073709551615"

func TestStartTimeIsNotFooledByTheName(t *testing.T) {
	for _, name := range []string{"sleep", "a b", "x) S 1 2 3 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 1 5", ")", "(", "\n"} {
		stat := "4711 (" + name + ")" + statAfterName
		if got, err := attest.StartTime(stat); got != 8172 || err != nil {
			t.Errorf("StartTime(%q) = %d, %v, want 8172", stat, got, err)
		}
	}
	for _, stat := range []string{"", "4711", "4711 (x)", "4711 (x) S 1", strings.Replace("1 (x)"+statAfterName, "8172", "-1", 1)} {
		if got, err := attest.StartTime(stat); err == nil {
			t.Errorf("StartTime(%q) = %d", stat, got)
		}
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add("sleep", uint64(8172))
	f.Add(") S (", uint64(0))
	f.Fuzz(func(t *testing.T, name string, start uint64) {
		stat := "1 (" + name + ")" + strings.Replace(statAfterName, "8172", fmt.Sprint(start), 1)
		if got, err := attest.StartTime(stat); got != start || err != nil {
			t.Errorf("StartTime(%q) = %d, %v, want %d", stat, got, err, start)
		}
		_, _ = attest.StartTime(name)
		_, _ = attest.PidInfo(name)
	})
}

// forgeries are descriptors that are no pidfds, by what they are.
func forgeries(t *testing.T) map[string]*os.File {
	t.Helper()
	dir := t.TempDir()
	regular := filepath.Join(dir, "anon_inode:[pidfd]")
	check(t, os.WriteFile(regular, []byte("Pid:\t1\n"), 0o600))
	files := map[string]*os.File{}
	for _, path := range []string{regular, dir, "/dev/null", "/proc/self/ns/net", "/proc/self/stat", "/proc/self"} {
		f, err := os.Open(path)
		check(t, err)
		files[path] = f
	}
	descriptor := func(name string, fd int, err error) {
		check(t, err)
		files[name] = os.NewFile(uintptr(fd), name)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	descriptor("eventfd", fd, err)
	fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	descriptor("epoll", fd, err)
	fd, err = unix.MemfdCreate("anon_inode:[pidfd]", unix.MFD_CLOEXEC)
	descriptor("memfd", fd, err)
	fd, err = unix.InotifyInit1(unix.IN_CLOEXEC)
	descriptor("inotify", fd, err)
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	descriptor("socket", fd, err)
	return files
}

func TestConfined(t *testing.T) {
	self := open(t, os.Getpid())
	text, err := os.ReadFile("/proc/self/status")
	check(t, err)
	if confined, err := self.Confined(); err != nil || confined != attest.WithoutListening(string(text)) {
		t.Errorf("Confined of the test itself = %v, %v", confined, err)
	}
	const sets = "Name:\tx\nCapInh:\t%s\nCapPrm:\t%s\nCapEff:\t%s\nCapBnd:\t%s\nCapAmb:\t%s\n"
	none, raw, admin, other := "0000000000000000", "0000000000002000", "0000000000001000", "00000000a80405fb"
	for _, c := range []struct {
		text string
		want bool
	}{
		{fmt.Sprintf(sets, none, none, none, none, none), true},
		{fmt.Sprintf(sets, other, other, other, other, none), true},
		{fmt.Sprintf(sets, none, none, none, raw, none), false}, // it may be had by executing a program
		{fmt.Sprintf(sets, raw, none, none, none, none), false},
		{fmt.Sprintf(sets, none, admin, none, none, none), false},
		{fmt.Sprintf(sets, none, none, none, none, admin), false},
		{fmt.Sprintf(sets, "x", none, none, none, none), false},
		{"Name:\tCapBnd:\t0\n", false},
		{"", false},
	} {
		if got := attest.WithoutListening(c.text); got != c.want {
			t.Errorf("of %q: %v, want %v", c.text, got, c.want)
		}
	}
}
