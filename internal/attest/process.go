package attest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is one process for good, by a pidfd. A process id is a number that comes round again; a pidfd is not. Its
// pidfd becomes readable when it has ended (package readiness).
// It is safe for concurrent use.
type Process struct {
	file  *os.File
	conn  syscall.RawConn
	pid   int
	start uint64
	inode uint64
}

// OpenProcess opens the process with the id pid. Whoever got the number from elsewhere has to make sure that it means
// the process he thinks: a pidfd handed over by someone who holds the process is better (see ProcessFromFD). The
// error matches ErrGone if there is no such process, or if it has ended.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("open process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	return newProcess(fd)
}

// ProcessFromFD takes ownership of f, which must be a pidfd, and closes it in every case. The error matches
// ErrNotPidfd if f is something else, and ErrGone if the process has ended.
func ProcessFromFD(f *os.File) (*Process, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over pidfd: %w", err), f.Close())
	}
	// A duplicate, so that f can be closed in every case, and by nobody else.
	var fd int
	var inner error
	err = conn.Control(func(old uintptr) { fd, inner = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	_ = f.Close() // only read from
	if err := errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("take over pidfd: %w", err)
	}
	return newProcess(fd)
}

// newProcess owns fd.
func newProcess(fd int) (*Process, error) {
	inode, err := verifyPidfd(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	p := &Process{file: os.NewFile(uintptr(fd), "pidfd"), inode: inode}
	if err := p.read(fd); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// Names of a pidfd in /proc/self/fd. A file cannot have them: its name begins with a slash.
const (
	pidfdName   = "anon_inode:[pidfd]"
	pidfdPrefix = "pidfd:["
)

// verifyPidfd returns the inode of the pidfd, which is the process's own until the next boot where the kernel has
// pidfs (Linux 6.9), and 0 elsewhere.
func verifyPidfd(fd int) (inode uint64, err error) {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return 0, fmt.Errorf("look at pidfd: %w", err)
	}
	if name != pidfdName && !strings.HasPrefix(name, pidfdPrefix) {
		return 0, fmt.Errorf("%.64q: %w", name, ErrNotPidfd)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, fmt.Errorf("look at pidfd: %w", os.NewSyscallError("fstatfs", err))
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("look at pidfd: %w", os.NewSyscallError("fstat", err))
	}
	return st.Ino, nil
}

// read collects the facts and asks afterwards whether the process is alive: if it is, its number was its own all the
// time, and what /proc said under that number is about it.
func (p *Process) read(fd int) (err error) {
	if p.conn, err = p.file.SyscallConn(); err != nil {
		return fmt.Errorf("read pidfd: %w", err)
	}
	if p.pid, err = pidOf(fd); err != nil {
		return err
	}
	if p.pid > 0 {
		stat, err := os.ReadFile(procPath(p.pid, "stat"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d: %w", p.pid, ErrGone)
		}
		if err != nil {
			return fmt.Errorf("read start time: %w", err)
		}
		if p.start, err = startTime(string(stat)); err != nil {
			return err
		}
	}
	if !p.Alive() {
		return fmt.Errorf("process %d: %w", p.pid, ErrGone)
	}
	return nil
}

// pidOf reads the number the kernel shows for the pidfd: -1 if the process has ended, 0 if it is in a process
// namespace that is not below ours.
func pidOf(fd int) (int, error) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, fmt.Errorf("read pidfd: %w", err)
	}
	pid, err := pidInfo(string(info))
	if err != nil {
		return 0, err
	}
	if pid < 0 {
		return 0, fmt.Errorf("process of the pidfd: %w", ErrGone)
	}
	return pid, nil
}

func pidInfo(fdinfo string) (int, error) {
	for line := range strings.Lines(fdinfo) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
			if err != nil {
				return 0, fmt.Errorf("read pidfd: %w", err)
			}
			return int(pid), nil
		}
	}
	return 0, fmt.Errorf("no process in fdinfo: %w", ErrNotPidfd)
}

// startTime is field 22 of /proc/PID/stat. The second field, the name, may itself hold spaces and parentheses.
func startTime(stat string) (uint64, error) {
	const field = 22 - 3 // counted from the one after the name
	i := strings.LastIndexByte(stat, ')')
	f := strings.Fields(stat[i+1:])
	if i < 0 || len(f) <= field {
		return 0, fmt.Errorf("unexpected process state %.64q", stat)
	}
	start, err := strconv.ParseUint(f[field], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	return start, nil
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// PID is the process's number in our process namespace, or 0 if it is not visible there.
func (p *Process) PID() int { return p.pid }

// Start is when the process started, in clock ticks (usually of 10 ms) after boot, or 0 where PID is. It does not
// tell two processes apart that had the same number within one tick.
func (p *Process) Start() uint64 { return p.start }

// Same says whether both are the same process.
func (p *Process) Same(o *Process) bool {
	if p.inode != 0 || o.inode != 0 {
		return p.inode == o.inode
	}
	return p.pid != 0 && p.pid == o.pid && p.start == o.start
}

// SyscallConn gives access to the pidfd, which stays the process's.
func (p *Process) SyscallConn() (syscall.RawConn, error) { return p.conn, nil }

// File is the pidfd, which stays the process's.
func (p *Process) File() *os.File { return p.file }

// Alive says whether the process has not ended. One that nobody has waited for (a zombie) has ended.
func (p *Process) Alive() bool {
	alive := false
	err := p.conn.Control(func(fd uintptr) { alive = !hasEnded(fd) })
	return err == nil && alive
}

func hasEnded(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}

// NetNS opens the process's network namespace; the caller closes it. The error matches ErrGone if the process has
// ended.
func (p *Process) NetNS() (*os.File, error) {
	f, err := p.netNSFromPidfd()
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) { // before Linux 6.11
		f, err = p.netNSFromProc()
	}
	if err != nil && !p.Alive() {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace of process %d: %w", p.pid, err)
	}
	return f, nil
}

func (p *Process) netNSFromPidfd() (*os.File, error) {
	var ns int
	var inner error
	err := p.conn.Control(func(fd uintptr) { ns, inner = unix.IoctlRetInt(int(fd), unix.PIDFD_GET_NET_NAMESPACE) })
	if err := errors.Join(err, inner); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(ns), "netns"), nil
}

// netNSFromProc goes by the number and asks afterwards whether the process is alive: then the number was its own.
func (p *Process) netNSFromProc() (*os.File, error) {
	if p.pid == 0 {
		return nil, errors.New("the process is not visible in /proc")
	}
	f, err := os.Open(procPath(p.pid, "ns/net"))
	if err != nil {
		return nil, err
	}
	if !p.Alive() {
		return nil, errors.Join(ErrGone, f.Close())
	}
	return f, nil
}

// Close lets go of the process.
func (p *Process) Close() error { return p.file.Close() }
