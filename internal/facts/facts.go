// Package facts looks at a process from outside, with the process's own eyes: its environment, the files of its own
// root as its own user may read them, its network namespace, and what the credential endpoints answer in there.
//
// It is the door to /proc/PID. It follows no link out of the process's root, reads only regular files and only so much,
// and never changes anything. It refuses to keep secrets: of a secret value only whether it is set and how long it is
// leaves this package, key ids are masked when they are read, and the documents of endpoints are looked at for their
// members alone. It is apart from package diagnose so that what is concluded stays pure.
package facts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/diagnose"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
)

// Process is an open process: it cannot turn into another one while it is looked at.
type Process struct {
	pid    int
	pidfd  int
	dir    *os.File // of /proc/PID: its files are those of this process even when the number is another's
	root   *os.File // of its mount namespace; nil: may not be looked at
	net    *netns.NS
	user   user
	env    []string
	args   []string
	exe    string
	unseen []string
	held   atomic.Bool // something that was given up may still use the descriptors
}

// Open opens the process for looking. The error is a fault: container-gone, or permission-denied where its environment
// may not be read, without which everything would be guessed. What else may not be looked at is remembered.
func Open(ctx context.Context, pid int) (*Process, error) {
	p, err := within(ctx, openLimit, func() (*Process, error) { return openProcess(pid) })
	if errors.Is(err, errSlow) {
		return nil, fault.Wrap(err, fault.PermissionDenied, fmt.Sprintf("the memory of process %d does not answer", pid),
			"its environment cannot be read in time; look at what holds it up, such as a file system of its own")
	}
	return p, err
}

func openProcess(pid int) (*Process, error) {
	p := &Process{pid: pid, pidfd: -1}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fault.Wrap(err, fault.ContainerGone, fmt.Sprintf("there is no process %d", pid), "look for its number with ps or docker top")
	}
	p.pidfd = fd
	if p.dir, err = os.OpenFile(filepath.Join("/proc", strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, errors.Join(p.gone(err), p.Close())
	}
	if p.user, err = readUser(p.path("status")); err != nil {
		return nil, errors.Join(p.gone(err), p.Close())
	}
	p.exe = p.link("exe")
	b, whole, err := readUpTo(p.path("environ"), maxEnviron)
	if err != nil {
		return nil, errors.Join(p.closed(err), p.Close())
	}
	p.env = splitEnviron(b)
	if !whole {
		p.unseen = append(p.unseen, fmt.Sprintf("the rest of its environment: it is larger than %d MiB", maxEnviron>>20)) //nolint:mnd // of bytes
	} else if size := p.environSize(); len(b) < size {
		p.unseen = append(p.unseen, fmt.Sprintf("part of its environment: %d of its %d bytes cannot be read", size-len(b), size))
	}
	if b, _, err := readUpTo(p.path("cmdline"), maxProc); err == nil {
		p.args = splitEnviron(b)
	}
	if p.root, err = os.OpenFile(p.path("root"), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		p.root = nil
		p.blind("its files", err)
	}
	if p.net, err = netns.Open(p.path("ns/net")); err != nil {
		p.net = nil
		p.blind("its network namespace", err)
	}
	if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); errors.Is(err, unix.ESRCH) {
		return nil, errors.Join(p.gone(err), p.Close())
	}
	return p, nil
}

// environSize is how long the environment is, as the kernel knows; 0 where it does not say.
func (p *Process) environSize() int {
	const first, start = 3, 50 // as proc(5) counts: of the fields behind the name, and of env_start
	b, err := readSome(p.path("stat"))
	if err != nil {
		return 0
	}
	w := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(w) <= start+1-first {
		return 0
	}
	from, err1 := strconv.Atoi(w[start-first])
	to, err2 := strconv.Atoi(w[start+1-first])
	if err1 != nil || err2 != nil {
		return 0
	}
	return to - from
}

func (p *Process) gone(err error) error {
	return fault.Wrap(err, fault.ContainerGone, fmt.Sprintf("process %d ended while it was looked at", p.pid), "try again")
}

// closed is the fault of a process that we may not look at.
func (p *Process) closed(err error) error {
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return p.gone(err)
	}
	return fault.Wrap(err, fault.PermissionDenied, fmt.Sprintf("the environment of process %d may not be read", p.pid),
		"run it as root, or as the process's user")
}

func (p *Process) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(p.dir.Fd())), name)
}

// link is where a link of /proc/PID leads, or "" where that may not be seen.
func (p *Process) link(name string) string {
	to, err := os.Readlink(p.path(name))
	if err != nil {
		return ""
	}
	return to
}

// blind notes what could not be seen, in words without the cause's path.
func (p *Process) blind(what string, err error) {
	why := err.Error()
	if e, ok := errors.AsType[*os.PathError](err); ok {
		why = e.Err.Error()
	}
	if os.Geteuid() != 0 {
		why += "; run it as root"
	}
	p.unseen = append(p.unseen, what+": "+why)
}

// Close lets go of the process. Where something was given up, the descriptors stay with it: their numbers must not become
// those of other files under its hands.
func (p *Process) Close() error {
	if p.held.Load() {
		return nil
	}
	var errs []error
	if p.pidfd >= 0 {
		errs = append(errs, unix.Close(p.pidfd))
	}
	for _, f := range []*os.File{p.dir, p.root} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if p.net != nil {
		errs = append(errs, p.net.Close())
	}
	return errors.Join(errs...)
}

// ContainerID is the container that the process's cgroup is named after, or "".
func (p *Process) ContainerID() string {
	b, err := readSome(p.path("cgroup"))
	if err != nil {
		return ""
	}
	return string(idRE.Find(b))
}

var idRE = regexp.MustCompile(`[0-9a-f]{64}`)

// runtimeRE is how the OCI runtimes call the process that becomes the application; runc runs from memory.
var runtimeRE = regexp.MustCompile(`^(/?memfd:(runc|crun|youki)|(runc|crun|youki|runsc)( \(deleted\))?$)`)

// Starting says whether the process is still the OCI runtime's, which becomes the application in a moment and has
// nothing of its environment yet.
func (p *Process) Starting() bool {
	if runtimeRE.MatchString(path.Base(p.exe)) || runtimeRE.MatchString(p.exe) {
		return true
	}
	// The kernel is still loading the program: it has the new name already, and neither arguments nor environment yet.
	if strings.Join(p.args, "") == "" && strings.Join(p.env, "") == "" {
		return true
	}
	// What runc's init is told by, and no application has.
	if slices.ContainsFunc(p.env, func(kv string) bool { return strings.HasPrefix(kv, "_LIBCONTAINER_") }) {
		return true
	}
	return len(p.args) > 1 && p.args[1] == "init" && runtimeRE.MatchString(path.Base(p.args[0]))
}

// Replaced says whether the process has become another program since it was opened, as a container's first process
// does at its start, when the OCI runtime becomes the application. Then the facts are about neither.
func (p *Process) Replaced(ctx context.Context) bool {
	replaced, err := held(ctx, p, openLimit, func() (bool, error) {
		b, _, err := readUpTo(p.path("environ"), maxEnviron)
		return err == nil && (p.link("exe") != p.exe || !slices.Equal(splitEnviron(b), p.env)), nil
	})
	return err == nil && replaced
}

// ended says whether the process has ended, so that what was seen last is of one that was going.
func (p *Process) ended() bool {
	return errors.Is(unix.PidfdSendSignal(p.pidfd, 0, nil, 0), unix.ESRCH)
}

// Look collects everything. It takes no longer than the deadline of the slowest question.
func (p *Process) Look(ctx context.Context) *diagnose.Facts {
	f := &diagnose.Facts{Subject: diagnose.Subject{PID: p.pid, UID: p.user.uid}}
	if p.exe != "" {
		f.Subject.Program = clean(path.Base(p.exe), maxShown)
	}
	raw := environment(p.env, f)
	p.see(ctx, raw, f)
	p.network(ctx, f)
	var found searched
	var err error
	var searching sync.WaitGroup
	if p.root != nil {
		searching.Go(func() {
			found, err = held(ctx, p, searchLimit, func() (searched, error) { return p.libraries(ctx, raw.home, 0) })
		})
	}
	p.ask(ctx, raw, f)
	searching.Wait()
	switch {
	case err != nil:
		p.blind("the SDKs in its files", err)
	case found.cut:
		p.blind("all SDKs in its files", errMany)
	}
	if p.ended() {
		p.unseen = append(p.unseen, "what it would have been: the process ended while it was looked at")
	}
	f.SDKs, f.Libraries = found.possible, found.libraries
	f.Host.Now = time.Now()
	f.Host.Root = os.Geteuid() == 0
	f.Unseen = append(f.Unseen, p.unseen...)
	return f
}

// Limits of looking at files and memory, which take milliseconds where nobody holds them up.
const (
	openLimit   = time.Second
	fileLimit   = time.Second
	searchLimit = 1200 * time.Millisecond
)

// Bounds of what is read.
const (
	maxEnviron = 8 << 20 // the kernel allows 6 MiB at a start; a process may say later that more is its environment
	maxFile    = 1 << 20
	maxProc    = 1 << 20
)

// readSome reads a file of /proc, which has no size, up to a bound.
func readSome(name string) (_ []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readFrom(f)
}

// readUpTo reads a file of /proc and says whether that was all.
func readUpTo(name string, most int64) (_ []byte, whole bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil || int64(len(b)) <= most {
		return b, true, err
	}
	return b[:most], false, nil
}

// user is whose rights the process has.
type user struct {
	uid, gid int
	groups   []int
	caps     uint64 // effective
}

func readUser(name string) (user, error) {
	b, err := readSome(name)
	if err != nil {
		return user{}, err
	}
	u := user{uid: -1, gid: -1}
	const filesystem = 4 // Uid: real, effective, saved, file system
	for line := range bytes.Lines(b) {
		words := strings.Fields(string(line))
		switch {
		case len(words) > filesystem && words[0] == "Uid:":
			u.uid, err = strconv.Atoi(words[filesystem])
		case len(words) > filesystem && words[0] == "Gid:":
			u.gid, err = strconv.Atoi(words[filesystem])
		case len(words) > 0 && words[0] == "Groups:":
			for _, w := range words[1:] {
				if g, err := strconv.Atoi(w); err == nil {
					u.groups = append(u.groups, g)
				}
			}
		case len(words) == 2 && words[0] == "CapEff:":
			u.caps, err = strconv.ParseUint(words[1], 16, 64)
		}
		if err != nil {
			return user{}, err
		}
	}
	if u.uid < 0 || u.gid < 0 {
		return user{}, errors.New("the kernel does not say whose process it is")
	}
	return u, nil
}
