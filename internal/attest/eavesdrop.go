package attest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Eavesdropper is a process that may read what other processes of its network namespace say on lo: it has, or may take,
// CAP_NET_RAW or CAP_NET_ADMIN.
type Eavesdropper struct {
	PID    int
	Name   string // of its program, as the process itself says: for people
	Cgroup uint64 // id of the cgroup it is in, 0 where that tells nothing
}

// Eavesdroppers returns the processes in p's network namespace that could listen in on others there, p among them. It
// looks at every process of the host: some microseconds for each.
func (t *Tree) Eavesdroppers(p *Process) ([]Eavesdropper, error) {
	ns, err := netOf(p.pid)
	if err == nil && !p.Alive() {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("look for eavesdroppers beside process %d: %w", p.pid, err)
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for eavesdroppers: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("look for eavesdroppers: %w", err)
	}
	var found []Eavesdropper
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		e, ok, err := t.eavesdropper(pid, ns)
		if err != nil {
			return nil, fmt.Errorf("look for eavesdroppers: process %d: %w", pid, err)
		}
		if ok {
			found = append(found, e)
		}
	}
	return found, nil
}

// netOf returns a number that processes in one network namespace have in common and no others: the inode of a file that
// the kernel makes for each namespace. Unlike /proc/PID/ns/net it may be seen of every process, also of one that has
// more capabilities than we have.
func netOf(pid int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(procPath(pid, "net/dev"), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// eavesdropper looks at one process; one that has ended meanwhile is none.
func (t *Tree) eavesdropper(pid int, ns uint64) (_ Eavesdropper, is bool, err error) {
	defer func() {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a zombie has no network
			is, err = false, nil
		}
	}()
	if in, err := netOf(pid); err != nil || in != ns {
		return Eavesdropper{}, false, err
	}
	status, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return Eavesdropper{}, false, err
	}
	name, capabilities, err := capabilitiesOf(string(status))
	if err != nil || capabilities&listening == 0 {
		return Eavesdropper{}, false, err
	}
	e := Eavesdropper{PID: pid, Name: name}
	text, err := os.ReadFile(procPath(pid, "cgroup"))
	if err != nil {
		return Eavesdropper{}, false, err
	}
	if dir, ok := cgroup2Path(string(text)); ok && t.root != nil {
		c, err := t.at(dir)
		if err != nil && !errors.Is(err, ErrGone) {
			return Eavesdropper{}, false, err
		}
		e.Cgroup = c.ID
	}
	return e, true, nil
}

// listening are the capabilities that open packet sockets and redirect traffic (capabilities(7)).
const listening = 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_ADMIN

// Confined says whether p neither has nor may take a capability to listen in on others in its network namespace.
func (p *Process) Confined() (bool, error) {
	status, err := os.ReadFile(procPath(p.pid, "status"))
	if err != nil {
		return false, fmt.Errorf("capabilities of process %d: %w", p.pid, err)
	}
	_, capabilities, err := capabilitiesOf(string(status))
	if err == nil && !p.Alive() {
		err = ErrGone
	}
	if err != nil {
		return false, fmt.Errorf("capabilities of process %d: %w", p.pid, err)
	}
	return capabilities&listening == 0, nil
}

// capabilitiesOf reads the name of the program and the union of all sets from the text of /proc/PID/status: what is in
// the bounding set may be had by executing a program.
func capabilitiesOf(status string) (name string, all uint64, err error) {
	sets := 0
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
		switch key {
		case "Name":
			name = value
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			set, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return "", 0, fmt.Errorf("%s %.64q: %w", key, value, err)
			}
			all |= set
			sets++
		}
	}
	const known = 4 // there is no ambient set before Linux 4.3
	if sets < known {
		return "", 0, errors.New("no capabilities in the process's status")
	}
	return name, all, nil
}
