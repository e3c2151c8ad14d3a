package agent

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"sync"
	"time"

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// How long a container's first process is waited for once its cgroup is there, and how often it is looked for: often at
// first, because an OCI runtime takes only some ten milliseconds from the one to the program of the container. On the
// host's network nobody ever comes.
const (
	birthPatience = 3 * time.Second
	birthTick     = 500 * time.Microsecond
	birthLooks    = 400 // as often as that
	birthLater    = 20 * time.Millisecond
)

// nurseries are the directories in which engines make the cgroups of containers where nobody says otherwise: Docker's
// two cgroup drivers. Others are learned from the containers that were seen there.
var nurseries = []string{"/docker", "/system.slice"}

// midwife attaches containers that ask by label before their program starts, as often as it can. The cgroup of a
// container comes with a name that only the engine can have given, in a directory where only root makes cgroups, and
// before the container's process is let go: so whoever is in it is the container's. It cannot be relied on, because
// nobody waits for us; what it misses is attached after the start.
type midwife struct {
	births *attest.Births
	mu     sync.Mutex // guards what follows
	seen   map[string]bool
}

// newMidwife returns nil on hosts where cgroups tell nothing.
func newMidwife(tree *attest.Tree, log *slog.Logger) *midwife {
	births, err := tree.Births()
	if err != nil {
		log.Debug("containers that ask by label are attached after their start", slog.String("error", err.Error()))
		return nil
	}
	m := &midwife{births: births, seen: map[string]bool{}}
	for _, dir := range nurseries {
		m.learn(dir)
	}
	return m
}

// learn watches the directory too, if it is there and root's alone.
func (m *midwife) learn(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	const most = 64 // an engine that is told to can have one for each container
	if m.seen[dir] || len(m.seen) >= most || dir == "/" {
		return
	}
	if err := m.births.Watch(dir); err == nil {
		m.seen[dir] = true
	}
}

// run tells born of each cgroup, until close.
func (m *midwife) run(born func(cgroup string)) {
	for {
		cgroup, err := m.births.Next()
		if err != nil {
			return
		}
		born(cgroup)
	}
}

func (m *midwife) close() { _ = m.births.Close() }

// meet attaches the container that begins in the cgroup. Whatever is in the way is said when the container has started.
func (a *Agent) meet(ctx context.Context, id container.ID, cgroup string) {
	ctx, cancel := context.WithTimeout(ctx, birthPatience)
	defer cancel()
	c, name, err := a.labelled(ctx, id)
	if err != nil || name == "" {
		return
	}
	if _, err := a.lateRole(a.config.Load(), name); err != nil {
		return
	}
	t, err := a.awaitBirth(ctx, id, name, cgroup)
	if err != nil {
		return
	}
	if err := a.giveLate(ctx, c, t); err != nil {
		a.log.DebugContext(ctx, "not attached before its start", slog.String("container_id", id.Short()), slog.String("error", fault.As(err).What))
	}
}

// awaitBirth waits until there is one process in the cgroup that is in another network namespace than the agent's. The
// runtime's own helpers are there too before that: first one in the host's namespace, then several at once.
func (a *Agent) awaitBirth(ctx context.Context, id container.ID, role, cgroup string) (attach.Target, error) {
	tick := time.NewTicker(birthTick)
	defer tick.Stop()
	for looks := 0; ; looks++ {
		if looks == birthLooks {
			tick.Reset(birthLater)
		}
		if pid := a.tree.Alone(cgroup); pid != 0 {
			t, err := a.newborn(ctx, id, role, cgroup, pid)
			if err == nil {
				return t, nil
			}
		}
		select {
		case <-ctx.Done():
			return attach.Target{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// errUnborn means that the process is not the container's, or not yet in its namespace.
var errUnborn = errors.New("not yet the container's first process")

// newborn makes a target of the process with the number, if it is in this cgroup and has left the host's namespace.
func (a *Agent) newborn(ctx context.Context, id container.ID, role, cgroup string, pid int) (attach.Target, error) {
	p, err := attest.OpenProcess(pid)
	if err != nil {
		return attach.Target{}, err
	}
	cg, known, err := a.tree.Of(p)
	if err != nil || !known || cg.Path != path.Clean(cgroup) {
		return attach.Target{}, errors.Join(errUnborn, err, p.Close())
	}
	t, err := a.proved(ctx, id, role, p)
	if err != nil {
		return attach.Target{}, errors.Join(err, p.Close())
	}
	if host, err := a.host.Same(t.NS); err != nil || host {
		return attach.Target{}, errors.Join(errUnborn, err, p.Close(), t.NS.Close())
	}
	return t, nil
}
