package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/broker"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/egress"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/policy"
	"taskrole/internal/taskmeta"
)

// Attach gives a container its role, or a fault: the hook's one question. It owns both files.
func (a *Agent) Attach(ctx context.Context, r control.AttachRequest, pidfd, ns *os.File) (control.AttachReply, error) {
	defer a.worked()
	begun := time.Now()
	reply, err := a.attach(ctx, r, pidfd, ns)
	log := a.log.With(slog.String("container_id", r.ID.Short()), slog.String("role", r.Role), slog.String("way", string(r.Way)))
	if err != nil {
		f := fault.As(err)
		attrs := []slog.Attr{slog.String("code", string(f.Code)), slog.String("error", f.What)}
		if f.Err != nil {
			attrs = append(attrs, slog.String("cause", f.Err.Error()))
		}
		log.LogAttrs(ctx, slog.LevelWarn, "refused", attrs...)
		a.refusals.note(control.Refusal{ID: r.ID, Role: r.Role, Way: r.Way, Time: time.Now(), Trouble: *control.NewTrouble(f)})
		return control.AttachReply{}, f
	}
	log.InfoContext(ctx, "attached", slog.String("role_arn", reply.RoleARN), slog.String("session", reply.Session), slog.Bool("already", reply.Already), slog.Duration("took", time.Since(begun)))
	return reply, nil
}

func (a *Agent) attach(ctx context.Context, r control.AttachRequest, pidfd, nsFile *os.File) (control.AttachReply, error) {
	t, err := a.target(r, pidfd, nsFile)
	if err != nil {
		return control.AttachReply{}, err
	}
	c, already, err := a.give(ctx, t)
	if err != nil {
		return control.AttachReply{}, err
	}
	return control.AttachReply{
		Container: r.ID, Role: c.Role, RoleARN: c.RoleARN, Session: c.Session, Already: already, Endpoints: texts(c.Addresses),
	}, nil
}

// give attaches t by today's configuration. It owns t.
func (a *Agent) give(ctx context.Context, t attach.Target) (attach.Attached, bool, error) {
	cfg := a.config.Load()
	role, err := cfg.Role(t.Role)
	if err != nil {
		return attach.Attached{}, false, errors.Join(err, t.Process.Close(), t.NS.Close())
	}
	t.Mixed = role.ShareNetwork
	return a.attacher.Attach(ctx, t, func(ctx context.Context) (attach.Service, error) { return a.prepare(ctx, cfg, role, t) })
}

func texts(addrs []netip.AddrPort) []string {
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return s
}

// target turns the hook's descriptors into a process and a namespace that are proved to belong together.
func (a *Agent) target(r control.AttachRequest, pidfd, nsFile *os.File) (attach.Target, error) {
	p, err := attest.ProcessFromFD(pidfd)
	if err != nil {
		_ = nsFile.Close()
		return attach.Target{}, badDescriptor(err, r.ID)
	}
	ns, err := netns.FromFile(nsFile)
	if err != nil {
		_ = p.Close()
		return attach.Target{}, badDescriptor(err, r.ID)
	}
	t := attach.Target{ID: r.ID, Role: r.Role, Way: r.Way, Process: p, NS: ns, Confined: r.Confined}
	if err := a.check(&t); err != nil {
		_ = p.Close()
		_ = ns.Close()
		return attach.Target{}, err
	}
	return t, nil
}

func badDescriptor(err error, id container.ID) error {
	if errors.Is(err, attest.ErrGone) {
		return fault.New(fault.ContainerGone, fmt.Sprintf("container %s ended before it could get its role", id.Short()), "start it again")
	}
	return fault.Wrap(err, fault.RequestInvalid, "the hook's descriptors are not a process and its network namespace", "use the taskrole-runtime of the agent's own version")
}

// check compares the namespace handed over with the process's own, as the kernel has it, and notes whether it is the
// host's.
func (a *Agent) check(t *attach.Target) error {
	file, err := t.Process.NetNS()
	if err != nil {
		return badDescriptor(err, t.ID)
	}
	own, err := netns.FromFile(file)
	if err != nil {
		return badDescriptor(err, t.ID)
	}
	defer func() { _ = own.Close() }()
	if same, err := own.Same(t.NS); err != nil || !same {
		return badDescriptor(fmt.Errorf("the namespace is not the process's own: %w", errors.Join(err)), t.ID)
	}
	if t.Host, err = a.host.Same(t.NS); err != nil {
		return badDescriptor(err, t.ID)
	}
	if t.Host {
		return noECSAgent(t.ID)
	}
	return nil
}

// prepare decides whether the container may have the role and gets its first credentials.
func (a *Agent) prepare(ctx context.Context, cfg *config.Config, role config.Role, t attach.Target) (attach.Service, error) {
	c, err := a.facts(ctx, role, t.ID)
	if err != nil {
		return attach.Service{}, err
	}
	lease, session, err := a.admit(ctx, cfg, role, c, t.Session)
	if err != nil {
		return attach.Service{}, err
	}
	t.Session = session
	if t.Inject != "" {
		role.Inject = config.Injection(t.Inject) // its environment was made then, and cannot be changed
	}
	t.Inject = string(role.Inject)
	s, err := a.service(cfg, role, t, c, lease)
	if err != nil {
		lease.Release()
		return attach.Service{}, err
	}
	if err := a.register.note(t); err != nil {
		s.Release(true)
		return attach.Service{}, err
	}
	s.RoleARN, s.Session = role.ARN.String(), t.Session
	return s, nil
}

// admit lets policy decide, and holds the credentials of the container's grant. session is "" where it is not known from
// earlier.
func (a *Agent) admit(ctx context.Context, cfg *config.Config, role config.Role, c container.Container, session string) (_ *broker.Lease, _ string, err error) {
	if d := policy.Decide(role.Allow, c); !d.Allowed {
		return nil, "", fault.New(fault.RoleNotAllowed,
			fmt.Sprintf("container %s may not have the role %s (%s)", c.Title(), role.Name, strings.Join(d.Trace, "; ")),
			"add a rule that matches it to roles."+role.Name+".allow in "+cfg.Path)
	}
	if session == "" {
		if session, err = role.SessionName(c, a.hostname); err != nil {
			return nil, "", err
		}
	}
	lease, err := a.broker.Acquire(ctx, newGrant(cfg, role, session))
	return lease, session, err
}

// facts asks the engine who the container is. Where no rule needs to know, an engine that does not answer is no
// obstacle: the names are for the log then.
func (a *Agent) facts(ctx context.Context, role config.Role, id container.ID) (container.Container, error) {
	unknown := container.Container{ID: id}
	if len(a.engines) == 0 {
		return unknown, nil
	}
	needed := false
	for _, r := range role.Allow {
		needed = needed || r.NeedsEngine()
	}
	c, err := a.engines.Lookup(ctx, id)
	if err != nil && needed {
		return unknown, err
	}
	if err != nil {
		a.log.DebugContext(ctx, "no engine names the container", slog.String("container_id", id.Short()), slog.String("error", err.Error()))
		return unknown, nil
	}
	return c, nil
}

// service is what the container finds in its namespace.
func (a *Agent) service(cfg *config.Config, role config.Role, t attach.Target, c container.Container, lease *broker.Lease) (attach.Service, error) {
	o := endpoint.Options{
		Container: c, Role: role.Name, RoleARN: role.ARN, Region: cfg.RegionOf(role), IMDS: endpoint.Mode(role.IMDS), Instance: a.telling.mixed.Load,
		Credentials: lease.Credentials, Tokens: a.tokens, Logger: a.log,
	}
	if role.Inject != config.InjectRelative {
		o.Authorization = a.tokens.Authorization(role.Name)
	}
	if role.TaskMetadata && len(a.engines) > 0 {
		o.Task = taskmeta.New(taskmeta.Options{
			Container: c, Role: role.Name, RoleARN: role.ARN, Region: a.telling.mixed.Load().In(o.Region).Region,
			Zone: func() string { return a.telling.mixed.Load().In(o.Region).Zone }, Engine: a.engines,
		})
	}
	release := lease.Release
	if role.Egress != nil {
		proxy, err := egress.New(egress.Options{
			Region: o.Region, Partition: role.ARN.Partition,
			Services: role.Egress.Services, Endpoints: role.Egress.Endpoints, Logger: a.log,
		})
		if err != nil {
			return attach.Service{}, err
		}
		o.Proxy = proxy
		release = func() {
			proxy.Close()
			lease.Release()
		}
	}
	o.Visits = new(endpoint.Visits)
	forget := a.served.add(c.ID, &life{lease: lease, visits: o.Visits})
	h := endpoint.New(o)
	return attach.Service{
		Container:    c,
		Destinations: destinations(o, role, t.Host),
		Handle:       func(c net.Conn) { a.server.Handle(c, h) },
		Release: func(ended bool) {
			forget()
			release()
			if ended {
				a.register.forget(c.ID)
			}
		},
	}, nil
}

// destinations are the addresses a container finds its role at. On the host's network they are only what its environment
// names: IMDS there is the host's own.
func destinations(o endpoint.Options, role config.Role, host bool) []netip.AddrPort {
	d := endpoint.Destinations(o)
	if !host {
		return d
	}
	return slices.DeleteFunc(slices.Clone(d), func(d netip.AddrPort) bool {
		switch d {
		case address.IMDS, address.IMDS6, address.PodIdentity6:
			return true
		case address.PodIdentity:
			return role.Inject != config.InjectPodIdentity
		case address.FullURI:
			return role.Inject != config.InjectFull
		}
		return false
	})
}
