// Package monitors finds running containers by the process that watches over each of them: conmon, which Podman and
// CRI-O leave beside a container, and containerd's shim, which Docker, nerdctl, ctr and Kubernetes have in common.
//
// It needs no engine to answer, no socket and no configuration, and sees containers of engines that have neither, of
// which a host may run several. What it tells are the monitor's own words on its command line, so that it is for
// people who look at their host, and never for deciding who may have a role: anybody may call a process conmon. It
// refuses to believe a monitor about a process that is not its child, and one that is itself in a container or on
// another network. It does not see containers that do not run, nor what an engine knows beside names.
package monitors

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"taskrole/internal/container"
)

// Engines, as far as a monitor tells which one it is.
const (
	Podman     = "podman" // or CRI-O, which calls its containers k8s_…
	Containerd = "containerd"
	OCI        = "oci" // none of these
)

// Container is one that runs.
type Container struct {
	ID        container.ID
	Name      string // by Podman, nerdctl or Kubernetes; else the id if somebody chose it; else ""
	Engine    string // Podman or Containerd
	Namespace string // containerd's: moby is Docker
	PID       int    // of the first process
	UID       int    // whose the monitor is: another than 0 is a user's own engine
	Image     string // where Kubernetes wrote it down
	HostNet   bool   // containerd's only
}

// Bounds of what is read, and the fields of /proc/PID/stat behind the name.
const (
	maxCommand = 64 << 10
	maxBundle  = 4 << 20
	maxTasks   = 10000
	maxName    = 400

	fieldParent = 1
	fieldStart  = 19
)

// What the monitors are called; the kernel cuts the name of every version of the shim.
const (
	conmonName = "conmon"
	shimName   = "containerd-shim"
)

// process is one line of the table of processes.
type process struct {
	pid, parent int
	started     uint64
	name        string
}

// Running returns the containers that run on this host, as far as the caller may see their monitors. What could not
// be looked at is in the error beside them.
func Running(ctx context.Context) ([]Container, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	s := scan{table: map[int]process{}, children: map[int][]process{}, tasks: map[inode]bool{}, own: namespaces("/proc/thread-self")}
	for _, p := range all {
		s.table[p.pid] = p
		s.children[p.parent] = append(s.children[p.parent], p)
	}
	for _, p := range all {
		if err := ctx.Err(); err != nil {
			return s.sorted(), errors.Join(append(s.errs, err)...)
		}
		switch p.name {
		case conmonName:
			s.conmon(p)
		case shimName:
			s.shim(p)
		}
	}
	return s.sorted(), errors.Join(s.errs...)
}

// scan is what one look at the host gathers.
type scan struct {
	table    map[int]process
	children map[int][]process
	own      [2]string      // our namespaces
	tasks    map[inode]bool // directories of containerd that were read
	found    []Container
	errs     []error
}

// inode tells directories apart, also those of other mount namespaces.
type inode struct{ dev, ino uint64 }

func (s *scan) sorted() []Container {
	slices.SortFunc(s.found, func(a, b Container) int {
		return strings.Compare(a.Engine+"\x00"+a.Namespace+"\x00"+string(a.ID), b.Engine+"\x00"+b.Namespace+"\x00"+string(b.ID))
	})
	return slices.CompactFunc(s.found, func(a, b Container) bool { return a.PID == b.PID })
}

// processes reads the table of processes.
func processes() ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only read
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make([]process, 0, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", n, "stat"))
		if err != nil {
			continue // it has gone
		}
		if p, ok := parseStat(pid, b); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// parseStat reads /proc/PID/stat. The name in it may hold everything, also parentheses and blanks.
func parseStat(pid int, b []byte) (process, bool) {
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || shut < open {
		return process{}, false
	}
	w := strings.Fields(string(b[shut+1:]))
	if len(w) <= fieldStart {
		return process{}, false
	}
	parent, err := strconv.Atoi(w[fieldParent])
	started, err2 := strconv.ParseUint(w[fieldStart], 10, 64)
	return process{pid: pid, parent: parent, started: started, name: string(b[open+1 : shut])}, err == nil && err2 == nil
}

// namespaces are those of a process that say which host it belongs to: what is in another pid namespace is in a
// container, and what is in another network is, to AWS, another machine, as those of our own lab are.
func namespaces(proc string) [2]string {
	return [2]string{link(proc + "/ns/pid"), link(proc + "/ns/net")}
}

// monitor is a process that is held open, so that its number cannot become another's.
type monitor struct {
	dir  *os.File
	args []string
	uid  int
}

// open opens a monitor. false: it has gone, may not be seen, or is itself in a container.
func (s *scan) open(p process) (*monitor, bool) {
	dir, err := os.OpenFile(filepath.Join("/proc", strconv.Itoa(p.pid)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, false
	}
	m := &monitor{dir: dir}
	var st unix.Stat_t
	b, err := readSome(m.path("cmdline"), maxCommand)
	if err != nil || unix.Fstat(int(dir.Fd()), &st) != nil || namespaces(m.path("")) != s.own {
		_ = dir.Close() // only read
		return nil, false
	}
	m.args, m.uid = strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), int(st.Uid)
	return m, true
}

func (m *monitor) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(m.dir.Fd())), name)
}

// option is the value of an option that may be given as one word or two.
func (m *monitor) option(names ...string) string {
	for i, w := range m.args {
		for _, n := range names {
			if w == n && i+1 < len(m.args) {
				return m.args[i+1]
			}
			if v, ok := strings.CutPrefix(w, n+"="); ok {
				return v
			}
		}
	}
	return ""
}

// conmon is the monitor of Podman and CRI-O: its command line has the id and the name, and its child is the
// container's first process. One for an exec is no container's.
func (s *scan) conmon(p process) {
	m, ok := s.open(p)
	if !ok {
		return
	}
	defer func() { _ = m.dir.Close() }() // only read
	id := container.ID(m.option("-c", "--cid"))
	if !id.Valid() || slices.Contains(m.args, "-e") || slices.Contains(m.args, "--exec") || m.option("--exec-process-spec") != "" {
		return
	}
	kids := s.children[p.pid]
	if len(kids) == 0 {
		return // not yet, or no more
	}
	first := slices.MinFunc(kids, func(a, b process) int { return cmp.Compare(a.started, b.started) })
	s.found = append(s.found, Container{ID: id, Name: name(m.option("-n", "--name")), Engine: Podman, PID: first.pid, UID: m.uid})
}

// shim is containerd's monitor. It begins in the directory of its first container, beside which are those of the
// namespace's others: one shim may watch over all containers of a pod.
func (s *scan) shim(p process) {
	m, ok := s.open(p)
	if !ok {
		return
	}
	defer func() { _ = m.dir.Close() }() // only read
	namespace := m.option("-namespace", "--namespace")
	if namespace == "" || m.uid != 0 && m.uid != os.Geteuid() {
		return
	}
	tasks := m.path("cwd") + "/.." // of the directory: cleaned as text, it would be another
	names, err := s.list(tasks)
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("the containers of containerd's namespace %s: %w", namespace, bare(err)))
		return
	}
	for _, n := range names {
		if c, ok := s.task(tasks+"/"+n, container.ID(n)); ok {
			c.Namespace, c.UID = namespace, m.uid
			s.found = append(s.found, c)
		}
	}
}

// list are the names in a directory that was not read before.
func (s *scan) list(name string) ([]string, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only read
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	key := inode{st.Dev, st.Ino}
	if s.tasks[key] {
		return nil, nil
	}
	s.tasks[key] = true
	names, err := dir.Readdirnames(maxTasks)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// task is one container's directory.
func (s *scan) task(dir string, id container.ID) (Container, bool) {
	b, err := readSome(dir+"/init.pid", maxCommand)
	if err != nil || !id.Valid() {
		return Container{}, false // it is being made, or taken down
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || !s.watched(pid) {
		return Container{}, false
	}
	c := Container{ID: id, Engine: Containerd, PID: pid}
	if b, err = readSome(dir+"/config.json", maxBundle); err == nil {
		c.describe(b)
	}
	return c, true
}

// watched says whether the process is the child of a shim.
func (s *scan) watched(pid int) bool {
	p, ok := s.table[pid]
	return ok && s.table[p.parent].name == shimName
}

// describe reads what an OCI bundle says: the annotations of Kubernetes and nerdctl, and the namespaces.
func (c *Container) describe(b []byte) {
	var spec struct {
		Annotations map[string]string
		Linux       *struct {
			Namespaces []struct{ Type, Path string }
		}
	}
	if json.Unmarshal(b, &spec) != nil {
		return
	}
	const cri = "io.kubernetes.cri."
	a := spec.Annotations
	c.Image = a[cri+"image-name"]
	switch {
	case a[cri+"container-name"] != "":
		c.Name = a[cri+"sandbox-namespace"] + "/" + a[cri+"sandbox-name"] + "/" + a[cri+"container-name"]
	case a[cri+"container-type"] == "sandbox":
		c.Name = a[cri+"sandbox-namespace"] + "/" + a[cri+"sandbox-name"]
	default:
		c.Name = a["nerdctl/name"]
	}
	c.Name, c.Image = name(c.Name), name(c.Image)
	if c.Name == "" && idRE.FindString(string(c.ID)) == "" {
		c.Name = string(c.ID)
	}
	c.HostNet = spec.Linux != nil
	if spec.Linux == nil {
		return
	}
	for _, n := range spec.Linux.Namespaces {
		c.HostNet = c.HostNet && n.Type != "network"
	}
}

// name is a name that somebody chose, if it is fit to be shown and to be asked for.
func name(s string) string {
	if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// link is where a link leads, or "".
func link(name string) string {
	to, err := os.Readlink(name)
	if err != nil {
		return ""
	}
	return to
}

// bare is an error without the path that we looked through.
func bare(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}

var (
	errNotRegular = errors.New("it is not a regular file")
	errLarge      = errors.New("it is too large")
)

var idRE = regexp.MustCompile(`[0-9a-f]{64}`)

// ByCgroup returns the oldest process of the container whose id begins with these digits, by the name of its cgroup:
// of engines that leave no monitor that we know. What it returns beside a nil error has an id, or there is none.
func ByCgroup(ctx context.Context, prefix string) ([]Container, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b process) int { return cmp.Compare(a.started, b.started) })
	var found []Container
	for _, p := range all {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		b, err := readSome(filepath.Join("/proc", strconv.Itoa(p.pid), "cgroup"), maxCommand)
		if err != nil || p.name == conmonName {
			continue // it has gone; or is beside the container
		}
		for _, id := range idRE.FindAllString(string(b), -1) {
			known := slices.ContainsFunc(found, func(c Container) bool { return string(c.ID) == id })
			if strings.HasPrefix(id, prefix) && !known {
				found = append(found, Container{ID: container.ID(id), Engine: OCI, PID: p.pid})
			}
		}
	}
	return found, nil
}
