package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Births tells of cgroups as they are made: an OCI runtime makes a container's before it starts the container's first
// process, so this is the earliest word of it. Directories that others than root may write to are not watched, because
// what is made there proves nothing. It is safe for concurrent use.
type Births struct {
	tree *Tree
	file *os.File

	mu   sync.Mutex // guards what follows
	dirs map[int32]string
	next []string
}

// Births begins to watch, nothing at first. It is an error of the kind errors.ErrUnsupported where the host has no
// cgroup v2 hierarchy.
func (t *Tree) Births() (*Births, error) {
	if t.root == nil {
		return nil, fmt.Errorf("watch cgroups: %w", errors.ErrUnsupported)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch cgroups: %w", os.NewSyscallError("inotify_init1", err))
	}
	return &Births{tree: t, file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}}, nil
}

// errOthers means that a cgroup is not root's alone.
var errOthers = errors.New("others than root may make cgroups there")

// Watch watches the cgroup at dir, too. To ask for it again changes nothing.
func (b *Births) Watch(dir string) error {
	full := path.Join(b.tree.dir, dir)
	fd, err := unix.Open(full, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch cgroup %.256q: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }()
	const others = 0o022
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("watch cgroup %.256q: %w", dir, err)
	}
	if st.Uid != 0 || st.Mode&others != 0 {
		return fmt.Errorf("watch cgroup %.256q: %w", dir, errOthers)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	conn, err := b.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch cgroup %.256q: %w", dir, err)
	}
	var wd int
	var inner error
	err = conn.Control(func(in uintptr) {
		wd, inner = unix.InotifyAddWatch(int(in), "/proc/self/fd/"+strconv.Itoa(fd), unix.IN_CREATE|unix.IN_ONLYDIR)
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("watch cgroup %.256q: %w", dir, err)
	}
	b.dirs[int32(wd)] = path.Clean("/" + dir) //nolint:gosec // the kernel counts them in 32 bits
	return nil
}

// Next waits for the next cgroup and returns its path. What was made faster than it was asked for may be missing. The
// error is os.ErrClosed after Close.
func (b *Births) Next() (string, error) {
	for {
		b.mu.Lock()
		if len(b.next) > 0 {
			dir := b.next[0]
			b.next = b.next[1:]
			b.mu.Unlock()
			return dir, nil
		}
		b.mu.Unlock()
		buf := make([]byte, 4<<10)
		n, err := b.file.Read(buf)
		if err != nil {
			return "", fmt.Errorf("watch cgroups: %w", err)
		}
		b.take(buf[:n])
	}
}

// take reads what the kernel wrote (inotify(7)).
func (b *Births) take(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf)) //nolint:gosec // it is one
		mask := binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			return // the kernel writes whole events only
		}
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00")
		buf = buf[end:]
		dir, ok := b.dirs[wd]
		switch {
		case mask&unix.IN_IGNORED != 0: // the watched one has been removed
			delete(b.dirs, wd)
		case ok && mask&unix.IN_CREATE != 0 && mask&unix.IN_ISDIR != 0:
			b.next = append(b.next, path.Join(dir, name))
		}
	}
}

// Close ends the watching; a Next that waits returns.
func (b *Births) Close() error { return b.file.Close() }

// Alone returns the number of the one process in the cgroup at dir, or 0 if there is none or are several.
func (t *Tree) Alone(dir string) int {
	text, err := os.ReadFile(path.Join(t.dir, dir, "cgroup.procs"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
