package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup of the host's version 2 hierarchy. The id is never used again; the path may be.
type Cgroup struct {
	ID   uint64
	Path string // below the mount point, beginning with a slash
}

// Tree is the host's cgroup v2 hierarchy, if it has one. It is safe for concurrent use.
type Tree struct {
	root *os.File // nil on hosts with version 1 alone
	dir  string
}

// OpenTree finds the cgroup v2 hierarchy: /sys/fs/cgroup on most hosts, /sys/fs/cgroup/unified on those that mount
// version 1 beside it. Without one it returns a Tree that knows nothing. A program in a container must have been given
// the host's mount and the host's cgroup namespace.
func OpenTree() (*Tree, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchy: %w", err)
	}
	for _, dir := range cgroup2Mounts(string(mounts)) {
		t, err := openTree(dir)
		if err != nil {
			return nil, fmt.Errorf("open cgroup hierarchy: %w", err)
		}
		if t != nil {
			return t, nil
		}
	}
	return &Tree{}, nil
}

// openTree returns nil if another mount hides the one at dir.
func openTree(dir string) (*Tree, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented: hidden
	}
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errors.Join(os.NewSyscallError("fstatfs", err), f.Close())
	}
	return &Tree{f, dir}, nil
}

// cgroup2Mounts returns where the text of /proc/self/mountinfo has the root of a cgroup v2 hierarchy (proc_pid_mountinfo(5)).
func cgroup2Mounts(mountinfo string) []string {
	var dirs []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		const root, mountPoint, options = 3, 4, 6
		for i := options; i+1 < len(fields); i++ {
			if fields[i] != "-" { // optional fields end with a hyphen
				continue
			}
			if fields[i+1] == "cgroup2" && fields[root] == "/" {
				dirs = append(dirs, unescape(fields[mountPoint]))
			}
			break
		}
	}
	return dirs
}

// unescape undoes the octal codes that stand for white space and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Dir is where the hierarchy is mounted, "" where the host has none.
func (t *Tree) Dir() string { return t.dir }

// Close lets go of the hierarchy.
func (t *Tree) Close() error {
	if t.root == nil {
		return nil
	}
	return t.root.Close()
}

// Of returns the cgroup p is in. It is false where cgroups tell nothing: on hosts with version 1 alone, and for a
// process in the root. The error matches ErrGone if the process has ended.
func (t *Tree) Of(p *Process) (Cgroup, bool, error) {
	if t.root == nil {
		return Cgroup{}, false, nil
	}
	c, known, err := t.ofPidfd(p)
	if err == nil && !known {
		c, err = t.ofProc(p)
	}
	if !p.Alive() { // one that has ended is in the root, whatever it was in before, and its number may be another's
		err = ErrGone
	}
	if err != nil {
		return Cgroup{}, false, fmt.Errorf("cgroup of process %d: %w", p.pid, err)
	}
	return c, c.Path != "/", nil
}

// ofPidfd asks the pidfd, which needs Linux 6.13.
func (t *Tree) ofPidfd(p *Process) (_ Cgroup, known bool, _ error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CGROUPID}
	err := p.conn.Control(func(fd uintptr) {
		if unix.IoctlPidfdInfo(int(fd), &info) != nil {
			info.Mask = 0 // an older kernel
		}
	})
	if err != nil {
		return Cgroup{}, false, err
	}
	if info.Mask&unix.PIDFD_INFO_CGROUPID == 0 || info.Cgroupid == 0 {
		return Cgroup{}, false, nil
	}
	dir, err := t.Path(info.Cgroupid)
	return Cgroup{info.Cgroupid, dir}, err == nil, err
}

// ofProc goes by the number; the caller makes sure afterwards that the process is alive.
func (t *Tree) ofProc(p *Process) (Cgroup, error) {
	if p.pid == 0 {
		return Cgroup{}, errors.New("the process is not visible in /proc")
	}
	text, err := os.ReadFile(procPath(p.pid, "cgroup"))
	if err != nil {
		return Cgroup{}, err
	}
	dir, ok := cgroup2Path(string(text))
	if !ok {
		return Cgroup{Path: "/"}, nil
	}
	return t.at(dir)
}

// cgroup2Path returns the path in the version 2 hierarchy from the text of /proc/PID/cgroup.
func cgroup2Path(text string) (string, bool) {
	for line := range strings.Lines(text) {
		if dir, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path.Clean("/" + dir), true
		}
	}
	return "", false
}

// at returns the cgroup that is at dir now. Its id is the inode of the directory.
func (t *Tree) at(dir string) (Cgroup, error) {
	var st unix.Stat_t
	if err := unix.Stat(path.Join(t.dir, dir), &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = ErrGone
		}
		return Cgroup{}, fmt.Errorf("cgroup %.256q: %w", dir, err)
	}
	return Cgroup{st.Ino, dir}, nil
}

// Enclosing returns the nearest cgroup, c itself or one above it, that an engine made for the container with the id: one
// called by the id or prefix-ID, as cgroupfs drivers do, or prefix-ID.scope, as systemd's. A container's first process may have moved
// itself below it, as systemd does.
func (t *Tree) Enclosing(c Cgroup, id string) (Cgroup, bool, error) {
	if t.root == nil || id == "" {
		return Cgroup{}, false, nil
	}
	for dir := path.Clean("/" + c.Path); dir != "/"; dir = path.Dir(dir) {
		if base := strings.TrimSuffix(path.Base(dir), ".scope"); base == id || strings.HasSuffix(base, "-"+id) {
			found, err := t.at(dir)
			return found, err == nil, err
		}
	}
	return Cgroup{}, false, nil
}

// fileidKernfs is FILEID_KERNFS: a file handle that is nothing but the cgroup's id (Linux 5.5).
const fileidKernfs = 0xfe

// Path returns where the cgroup with the id is. It takes one step, not a walk, and needs CAP_DAC_READ_SEARCH in the
// initial user namespace. The error matches ErrGone if the cgroup has been removed; a socket can outlive it.
func (t *Tree) Path(id uint64) (string, error) {
	if t.root == nil {
		return "", errors.New("the host has no cgroup v2 hierarchy")
	}
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(t.root.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return "", fmt.Errorf("cgroup %d: %w", id, ErrGone)
	}
	if err != nil {
		return "", fmt.Errorf("open cgroup %d: %w", id, err)
	}
	defer func() { _ = unix.Close(fd) }()
	full, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("cgroup %d: %w", id, err)
	}
	dir, ok := strings.CutPrefix(full, t.dir)
	if !ok || dir != "" && dir[0] != '/' {
		return "", fmt.Errorf("cgroup %d is %.256q, outside %s", id, full, t.dir)
	}
	return path.Clean("/" + dir), nil
}

// Nearest returns the index of the cgroup among them that the cgroup with the id is, or is below, and of several the
// lowest one; -1 is none. A removed cgroup gives ErrGone.
func (t *Tree) Nearest(id uint64, among []Cgroup) (int, error) {
	for i, c := range among {
		if c.ID == id {
			return i, nil
		}
	}
	nearest := -1
	for i, c := range among {
		if nearest >= 0 && len(c.Path) <= len(among[nearest].Path) {
			continue
		}
		within, err := t.Within(id, c)
		if errors.Is(err, ErrGone) && t.exists(id) {
			continue // c is: it has nothing below it any more
		}
		if err != nil {
			return -1, err
		}
		if within {
			nearest = i
		}
	}
	return nearest, nil
}

func (t *Tree) exists(id uint64) bool {
	_, err := t.Path(id)
	return err == nil
}

// Within says whether the cgroup with the id is ancestor or below it. A removed cgroup gives ErrGone, and one below
// a new cgroup that took ancestor's path is not within it.
func (t *Tree) Within(id uint64, ancestor Cgroup) (bool, error) {
	if id == 0 || ancestor.ID == 0 {
		return false, nil
	}
	if id == ancestor.ID {
		return true, nil
	}
	dir, err := t.Path(id)
	if err != nil {
		return false, err
	}
	if !strings.HasPrefix(dir, strings.TrimSuffix(ancestor.Path, "/")+"/") {
		return false, nil
	}
	now, err := t.at(ancestor.Path)
	if err != nil {
		return false, err
	}
	return now.ID == ancestor.ID, nil
}
