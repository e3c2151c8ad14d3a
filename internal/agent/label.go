package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
)

// newLate makes what follows the engine, where the configuration wants it. It returns nil otherwise.
func (a *Agent) newLate(cfg *config.Config) *late {
	if a.engine == nil || !cfg.Late {
		return nil
	}
	l := newLate(a.log, a.engine)
	l.give, l.warm, l.meet = a.attachLate, a.warm, a.meet
	l.alone = func(ctx context.Context, id container.ID) bool {
		hooked, err := a.engine.Hooked(ctx, id)
		return err == nil && !hooked
	}
	a.midwife = newMidwife(a.tree, a.log)
	return l
}

// labelled returns who the container is and the role its label names. The role is "" if there is no such container, and
// if the label is the image's: whoever built an image must not choose roles.
func (a *Agent) labelled(ctx context.Context, id container.ID) (c container.Container, role string, err error) {
	c, err = a.engine.Lookup(ctx, id)
	if err != nil {
		return container.Container{ID: id}, "", err
	}
	return c, c.Labels[label], nil
}

// lateRole is the role called name, if it can be given to a container that runs already.
func (a *Agent) lateRole(cfg *config.Config, name string) (config.Role, error) {
	role, err := cfg.Role(name)
	if err == nil && role.IMDS == config.IMDSOff {
		err = fault.New(fault.IMDSOff,
			fmt.Sprintf("the label %s=%s asks for a role that is not served at the address of IMDS, and nothing else can be found by a container that runs already", label, name),
			"leave out roles."+name+".imds in "+cfg.Path+", or start the container with CDI or the runtime")
	}
	return role, err
}

// attachLate gives a container that runs the role that its label asks for, if it is allowed. A container that has ended,
// or that has it already, is left alone.
func (a *Agent) attachLate(ctx context.Context, id container.ID) (container.Container, error) {
	c, name, err := a.labelled(ctx, id)
	if err != nil || !c.Known {
		return c, err
	}
	if name == "" {
		return c, fault.New(fault.RoleNotAllowed, fmt.Sprintf("the label %s of container %s is its image's, or the engine does not have the image any more: whoever built it must not choose roles", label, c.Title()),
			"start the container with --label "+label+"=NAME")
	}
	if _, err := a.lateRole(a.config.Load(), name); err != nil {
		return c, err
	}
	t, known, err := a.recorded(id, name)
	if err != nil || known && t.Way != container.WayLabel {
		return c, err // it came by CDI or the runtime, and has what it asked for
	}
	if !known {
		if t, err = a.lateTarget(ctx, id, name); err != nil {
			return c, err
		}
	}
	return c, a.giveLate(ctx, c, t)
}

// giveLate attaches t, which it owns. One that is attached already is left alone.
func (a *Agent) giveLate(ctx context.Context, c container.Container, t attach.Target) error {
	if err := a.checkLate(&t); err != nil {
		return errors.Join(err, t.Process.Close(), t.NS.Close())
	}
	if a.midwife != nil {
		if cg, known, err := a.tree.Of(t.Process); err == nil && known {
			if own, ok, err := a.tree.Enclosing(cg, string(t.ID)); err == nil && ok {
				a.midwife.learn(path.Dir(own.Path))
			}
		}
	}
	defer a.worked()
	got, already, err := a.give(ctx, t)
	if err != nil || already {
		return err
	}
	a.log.InfoContext(ctx, "attached by its label: the role is found at the address of IMDS alone",
		slog.String("container_id", t.ID.Short()), slog.String("container", c.Name), slog.String("role", got.Role),
		slog.String("way", string(got.Way)), slog.String("role_arn", got.RoleARN), slog.String("session", got.Session))
	return nil
}

// recorded returns the container as it was attached before, by this agent or an earlier one: with its session, which it
// keeps for its life. One that came by CDI or the runtime is only looked at; it does not get a second role.
func (a *Agent) recorded(id container.ID, role string) (t attach.Target, known bool, err error) {
	t, err = a.register.open(a.register.path(id))
	if err != nil {
		return attach.Target{}, false, nil //nolint:nilerr // there is none, or it is of a process that has ended
	}
	if t.Way == container.WayLabel && t.Role == role {
		return t, true, nil
	}
	err = errors.Join(t.Process.Close(), t.NS.Close())
	if err == nil && t.Role != role {
		err = fault.New(fault.NamespaceShared, fmt.Sprintf("container %s came by %s with the role %s, and its label asks for %s", id.Short(), t.Way, t.Role, cut(role)),
			"ask for one role only")
	}
	return t, true, err
}

// lateTarget opens the process and the namespace of a container that runs. The engine names the process by a number,
// which may be another's by the time it is looked at; so the pidfd comes first and the proof afterwards.
func (a *Agent) lateTarget(ctx context.Context, id container.ID, role string) (attach.Target, error) {
	pid, err := a.engine.PID(ctx, id)
	if err != nil {
		return attach.Target{}, err
	}
	if pid == 0 {
		return attach.Target{}, badDescriptor(attest.ErrGone, id)
	}
	p, err := attest.OpenProcess(pid)
	if err != nil {
		return attach.Target{}, badDescriptor(err, id)
	}
	t, err := a.proved(ctx, id, role, p)
	if err != nil {
		_ = p.Close()
	}
	return t, err
}

// proved makes a target of p if p is the container's.
func (a *Agent) proved(ctx context.Context, id container.ID, role string, p *attest.Process) (attach.Target, error) {
	if err := a.belongs(ctx, id, p); err != nil {
		return attach.Target{}, err
	}
	f, err := p.NetNS()
	if err != nil {
		return attach.Target{}, badDescriptor(err, id)
	}
	ns, err := netns.FromFile(f)
	if err != nil {
		return attach.Target{}, badDescriptor(err, id)
	}
	// One that is just being started still has all that its runtime has, and counts as able to listen in.
	confined, err := p.Confined()
	if err != nil {
		return attach.Target{}, errors.Join(badDescriptor(err, id), ns.Close())
	}
	return attach.Target{ID: id, Role: role, Way: container.WayLabel, Process: p, NS: ns, Confined: confined}, nil
}

// checkLate refuses the host's network: what is served there is only what the environment names, and a container that
// asks by label has nothing of that.
func (a *Agent) checkLate(t *attach.Target) error {
	if err := a.check(t); err != nil {
		return err
	}
	if t.Host {
		return fault.New(fault.HostNetwork,
			fmt.Sprintf("container %s asks by label on the host's network, where IMDS is the host's own and only the environment can name the role", t.ID.Short()),
			"start it with CDI or the runtime, or give it a network of its own")
	}
	return nil
}

// belongs asks the kernel whether p is in a cgroup that the engine made for the container, which is named after it.
// Where cgroups tell nothing, the engine is asked again: now that the process is held, its number cannot become another's.
func (a *Agent) belongs(ctx context.Context, id container.ID, p *attest.Process) error {
	cg, known, err := a.tree.Of(p)
	if err != nil {
		return badDescriptor(err, id)
	}
	if known {
		_, within, err := a.tree.Enclosing(cg, string(id))
		if err != nil {
			return badDescriptor(err, id)
		}
		if !within {
			return fault.New(fault.NotThisContainer,
				fmt.Sprintf("process %d, which the engine names, is not in a cgroup of container %s", p.PID(), id.Short()), "start the container again")
		}
		return nil
	}
	pid, err := a.engine.PID(ctx, id)
	if err != nil {
		return err
	}
	if pid != p.PID() || !p.Alive() {
		return badDescriptor(attest.ErrGone, id)
	}
	return nil
}

// warm fetches the credentials of a container that has been created, so that they are there when it starts. Nothing is
// held for it. Why it cannot be done is said when the container starts.
func (a *Agent) warm(ctx context.Context, id container.ID) {
	c, name, err := a.labelled(ctx, id)
	if err != nil || name == "" {
		return
	}
	cfg := a.config.Load()
	role, err := a.lateRole(cfg, name)
	if err != nil {
		return
	}
	lease, _, err := a.admit(ctx, cfg, role, c, "")
	if err != nil {
		a.log.DebugContext(ctx, "no credentials yet for a container that was created", slog.String("container_id", id.Short()),
			slog.String("error", fault.As(err).What))
		return
	}
	lease.Release()
}
