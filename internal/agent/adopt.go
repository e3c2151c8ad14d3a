package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/durable"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
)

// record is what is kept of an attached container, so that a new agent can attach it again: who it is and which role
// it asked for. It holds no credentials, and no permission either: policy is asked again.
type record struct {
	ID   container.ID  `json:"id"`
	Role string        `json:"role"`
	Way  container.Way `json:"way"`
	// Inject and Session were decided when the container started, and hold for its life.
	Inject  string `json:"inject,omitempty"`
	Session string `json:"session,omitempty"`
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"` // clock ticks after boot
	// Cgroup is the id of the container's cgroup, which the kernel never gives twice; a number for a process comes round
	// again. 0 on hosts without cgroup v2.
	Cgroup uint64 `json:"cgroup"`
	// NetNS is the inode of the network namespace, which the container keeps as long as the process is in it. A process
	// that may enter another one, a neighbour's or the host's, must not take its role along.
	NetNS uint64 `json:"netns"`
	// Confined says that it has neither NET_RAW nor NET_ADMIN, by the bundle that it was started from.
	Confined bool `json:"confined,omitempty"`
}

// register is the directory of records, beside the control socket: on a file system that a reboot empties, as the
// processes are gone then too.
type register struct {
	dir  string
	tree *attest.Tree
}

// maxRecord bounds a record that is read back.
const maxRecord = 4 << 10

func openRegister(cfg *config.Config, tree *attest.Tree) (*register, error) {
	parent := filepath.Dir(cfg.Socket)
	r := &register{dir: filepath.Join(parent, "containers"), tree: tree}
	//nolint:gosec // the socket in it has a mode of its own
	if err := errors.Join(os.MkdirAll(parent, 0o755), os.MkdirAll(r.dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make the directory of attached containers: %w", err)
	}
	if err := errors.Join(ours(parent), ours(r.dir)); err != nil {
		return nil, err
	}
	return r, nil
}

// ours refuses a directory that others may write to: they could put records of their own processes there, or a socket
// of theirs in place of ours.
func ours(dir string) error {
	const others = 0o022
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the directory of the agent's state: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && info.IsDir() && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && info.Mode().Perm()&others == 0 {
		return nil
	}
	return fault.New(fault.ConfigInvalid, fmt.Sprintf("%q is not a directory that only the agent's own user may write to", dir),
		"give it to root with mode 0755, or name a socket in another directory")
}

func (r *register) path(id container.ID) string { return filepath.Join(r.dir, string(id)+recordSuffix) }

// note writes the record of t.
func (r *register) note(t attach.Target) error {
	cg := t.Cgroup
	if cg.ID == 0 {
		var err error
		if cg, _, err = r.tree.Of(t.Process); err != nil {
			return err
		}
	}
	b, err := json.Marshal(record{
		ID: t.ID, Role: t.Role, Way: t.Way, Inject: t.Inject, Session: t.Session, PID: t.Process.PID(), Start: t.Process.Start(), Cgroup: cg.ID, NetNS: t.NS.ID().Ino, Confined: t.Confined,
	})
	if err != nil {
		return err
	}
	return durable.WriteFile(r.path(t.ID), b, 0o600)
}

// forget removes the record of a container that has ended.
func (r *register) forget(id container.ID) {
	_ = os.Remove(r.path(id)) // a record that stays is found stale at the next start
}

// recordSuffix ends the name of a record's file.
const recordSuffix = ".json"

// alive reads every record whose process is still the one it was written for. The others are removed, except where the
// reason may pass, such as too many open files: a container must not lose its role by that. It comes before the hook is
// served: what it takes for half a record could be one that is just being written.
func (r *register) alive(log *slog.Logger) []attach.Target {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		log.Error("attached containers not read", slog.String("error", err.Error()))
		return nil
	}
	var targets []attach.Target
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			_ = os.Remove(filepath.Join(r.dir, e.Name())) // half a record, of an agent that was killed
			continue
		}
		t, err := r.open(filepath.Join(r.dir, e.Name()))
		switch {
		case err == nil:
			targets = append(targets, t)
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
			log.Error("attached container not taken up", slog.String("container_id", container.ID(name).Short()), slog.String("error", err.Error()))
		default:
			log.Debug("record of a container that is gone", slog.String("container_id", container.ID(name).Short()), slog.String("error", err.Error()))
			_ = os.Remove(filepath.Join(r.dir, e.Name()))
		}
	}
	return targets
}

// Why a record is not to be used.
var (
	errOther     = errors.New("the process is another one now")
	errElsewhere = errors.New("the process is in another network namespace now")
)

func (r *register) open(file string) (attach.Target, error) {
	b, err := durable.ReadFile(file, maxRecord)
	if err != nil {
		return attach.Target{}, err
	}
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return attach.Target{}, err
	}
	if !rec.ID.Valid() || r.path(rec.ID) != file {
		return attach.Target{}, fmt.Errorf("record of %q", rec.ID.Short())
	}
	p, err := attest.OpenProcess(rec.PID)
	if err != nil {
		return attach.Target{}, err
	}
	cg, err := r.cgroup(rec, p)
	if err != nil || p.Start() != rec.Start {
		return attach.Target{}, errors.Join(errOther, err, p.Close())
	}
	f, err := p.NetNS()
	if err != nil {
		return attach.Target{}, errors.Join(err, p.Close())
	}
	ns, err := netns.FromFile(f)
	if err != nil {
		return attach.Target{}, errors.Join(err, p.Close())
	}
	if ns.ID().Ino != rec.NetNS {
		return attach.Target{}, errors.Join(errElsewhere, ns.Close(), p.Close())
	}
	return attach.Target{ID: rec.ID, Role: rec.Role, Way: rec.Way, Inject: rec.Inject, Session: rec.Session, Process: p, NS: ns, Cgroup: cg, Confined: rec.Confined}, nil
}

// cgroup returns the container's cgroup, in which or below which p still is: a container's first process may have moved
// down, as systemd does. It is the zero Cgroup where cgroups tell nothing.
func (r *register) cgroup(rec record, p *attest.Process) (attest.Cgroup, error) {
	now, known, err := r.tree.Of(p)
	switch {
	case err != nil:
		return attest.Cgroup{}, err
	case !known && now.ID == rec.Cgroup:
		return attest.Cgroup{}, nil
	case !known:
		return attest.Cgroup{}, errOther
	}
	dir, err := r.tree.Path(rec.Cgroup)
	if err != nil {
		return attest.Cgroup{}, err
	}
	own := attest.Cgroup{ID: rec.Cgroup, Path: dir}
	within, err := r.tree.Within(now.ID, own)
	if err != nil || !within || dir == "/" { // everything is below the root
		return attest.Cgroup{}, errors.Join(errOther, err)
	}
	return own, nil
}

// adopt attaches again what an earlier agent had attached. It returns when each container has its role back, has been
// refused for good, or has ended. The hook is served meanwhile.
func (a *Agent) adopt(ctx context.Context, found []attach.Target) {
	var wg sync.WaitGroup
	for _, t := range found {
		wg.Go(func() { a.adoptOne(ctx, t) })
	}
	wg.Wait()
}

// The pauses between attempts while STS does not answer.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

func (a *Agent) adoptOne(ctx context.Context, t attach.Target) {
	log := a.log.With(slog.String("container_id", t.ID.Short()), slog.String("role", t.Role))
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := a.check(&t)
		if err == nil {
			_, _, err = a.give(ctx, t)
		} else {
			err = errors.Join(err, t.Process.Close(), t.NS.Close())
		}
		if err == nil {
			log.InfoContext(ctx, "attached again after a restart of the agent")
			return
		}
		f := fault.As(err)
		log.WarnContext(ctx, "not attached again", slog.String("code", string(f.Code)), slog.String("error", f.What))
		if !passes(f.Code) {
			return // asking again changes nothing
		}
		var again attach.Target
		if again, err = a.register.open(a.register.path(t.ID)); err != nil {
			return // it has ended
		}
		t = again
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			_ = t.Process.Close()
			_ = t.NS.Close()
			return
		case <-timer.C:
		}
	}
}
