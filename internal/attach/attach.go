// Package attach keeps the agent's presence in containers: for each attached container the addresses on its lo, one
// listener, one steering program and one witness, from the moment the hook asks until the container's first process
// ends.
//
// It knows namespaces, processes and connections. It does not know roles' credentials, policy or HTTP dialects: those
// come in as a Service. It refuses to serve two containers in one network namespace, because a container may get its
// own role or an error, never its neighbour's.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
)

// Target says whom to attach: a container by its first process and its network namespace, both held open by
// descriptors, so that neither can be exchanged for another while we work.
type Target struct {
	ID   container.ID
	Role string // the role's name in the configuration
	Way  container.Way
	// Inject is how the container's environment names its credentials, where that is known from earlier; "" leaves it to
	// the configuration, by which the environment has just been made.
	Inject string
	// Session is its role session name, where that is known from earlier; "" leaves it to the configuration.
	Session string
	Process *attest.Process
	NS      *netns.NS
	// Cgroup is the container's, where it is known from earlier; the zero one is that of Process, which by now may
	// have moved to one below.
	Cgroup attest.Cgroup
}

// close gives both descriptors back.
func (t Target) close() error { return errors.Join(t.Process.Close(), t.NS.Close()) }

// Service is what a container gets.
type Service struct {
	Container    container.Container
	RoleARN      string
	Session      string           // role session name, the same for the container's life
	Destinations []netip.AddrPort // where it is found, inside the namespace
	// Serve answers connections from l until l is closed, and returns then.
	Serve func(l net.Listener) error
	// Release is called once, when nothing serves any more; ended says that the container has ended or never got the
	// service, and not that the agent stops. It may be nil.
	Release func(ended bool)
}

// Attached is one attached container, for people.
type Attached struct {
	Container container.Container
	Role      string // its name in the configuration
	RoleARN   string
	Session   string
	Way       container.Way
	PID       int // of its first process, as the agent sees it
	Since     time.Time
	// Direct says that the kernel cannot steer (before 5.9), so that port 80 itself is taken on our addresses and the
	// container cannot bind 0.0.0.0:80.
	Direct    bool
	Addresses []netip.AddrPort
}

// Options configure an Attacher. The zero value of each field is its default.
type Options struct {
	Logger *slog.Logger // must not be nil
	// Tree is the host's cgroup hierarchy; must not be nil. On a host with cgroup v1 alone it tells no containers apart, and
	// the namespace alone is the identity.
	Tree *attest.Tree
	// Connections bounds what one container may have open at once, 256 by default. What is beyond waits in the kernel's
	// queue: one container cannot use up the agent's descriptors.
	Connections int

	open opener // tests put their own here
}

// opener builds the presence of a container.
type opener func(t Target, s Service, o Options) (presence, error)

// presence is what stands in a container's namespace.
type presence interface {
	// serve answers until close is called.
	serve() error
	// close takes it all away; with leave the addresses stay behind.
	close(leave bool) error
	direct() bool
}

// Attacher keeps the set of attached containers. It is safe for concurrent use.
type Attacher struct {
	o Options

	mu      sync.Mutex // guards what follows
	entries map[container.ID]*entry
	closed  bool

	wg sync.WaitGroup // one for each entry that serves
}

// entry is one container, from the first request for it on.
type entry struct {
	target  Target
	service Service
	since   time.Time
	ready   chan struct{} // closed when err and presence are settled
	err     error
	at      presence
	stop    chan struct{} // closed to end it while the container lives
	done    chan struct{} // closed when nothing is left of it
}

const defaultConnections = 256

// New makes an Attacher.
func New(o Options) *Attacher {
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	if o.open == nil {
		o.open = openPresence
	}
	return &Attacher{o: o, entries: map[container.ID]*entry{}}
}

// errClosed is what a request finds that comes while the agent stops.
var errClosed = fault.New(fault.AgentUnreachable, "the agent is stopping", "start the container again when the agent is back")

// Attach makes t served by what prepare returns, and takes ownership of t. prepare runs only if the container is not
// attached already; a second request for the same process gets the first one's outcome and already is true. On any
// error nothing is left in the namespace.
func (a *Attacher) Attach(ctx context.Context, t Target, prepare func(context.Context) (Service, error)) (_ Attached, already bool, err error) {
	e, first, err := a.enter(ctx, t)
	if err != nil {
		return Attached{}, false, errors.Join(err, t.close())
	}
	if first {
		a.settle(e, a.build(ctx, e, prepare))
	} else {
		_ = t.close()
	}
	select {
	case <-e.ready:
	case <-ctx.Done():
		return Attached{}, false, ctx.Err()
	}
	if e.err != nil {
		return Attached{}, false, e.err
	}
	return e.attached(), !first, nil
}

// settle tells everybody who waits for e how its building ended.
func (a *Attacher) settle(e *entry, err error) {
	e.err = err
	close(e.ready)
	if err != nil {
		a.forget(e)
		_ = e.target.close()
		close(e.done)
	}
}

// attached describes e once it is ready.
func (e *entry) attached() Attached {
	return Attached{
		Container: e.service.Container, Role: e.target.Role, RoleARN: e.service.RoleARN, Session: e.service.Session, Way: e.target.Way,
		PID: e.target.Process.PID(), Since: e.since, Direct: e.at.direct(), Addresses: e.service.Destinations,
	}
}

// enter finds the container's entry or makes one; first says that the caller must build it. An entry whose process
// has ended is on its way out, and waited for: a restarted container keeps its id.
func (a *Attacher) enter(ctx context.Context, t Target) (e *entry, first bool, err error) {
	for {
		a.mu.Lock()
		e, err = a.conflict(t)
		switch {
		case a.closed:
			err = errClosed
		case err == nil && e == nil:
			e = &entry{target: t, ready: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{})}
			a.entries[t.ID] = e
			first = true
		}
		a.mu.Unlock()
		if err != nil || first || e.target.Process.Same(t.Process) {
			return e, first, err
		}
		select {
		case <-e.done: // its process has ended, as conflict saw
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// conflict returns the entry that stands where t wants to be, if it is t's own or about to go, and a fault if it is
// somebody else's.
func (a *Attacher) conflict(t Target) (*entry, error) {
	for _, e := range a.entries {
		sameNS, err := e.target.NS.Same(t.NS)
		if err != nil {
			return nil, err
		}
		sameID := e.target.ID == t.ID
		switch {
		case !sameID && !sameNS:
		case !e.target.Process.Alive():
			return e, nil
		case sameID && e.target.Process.Same(t.Process) && e.target.Role == t.Role:
			return e, nil
		case sameID && e.target.Process.Same(t.Process):
			return nil, fault.New(fault.NamespaceShared,
				fmt.Sprintf("container %s already has the role %s", t.ID.Short(), e.target.Role), "ask for one role only")
		case sameID:
			return nil, fault.New(fault.RequestInvalid,
				fmt.Sprintf("another live process already stands for container %s", t.ID.Short()), "stop it first; two engines may have used the same id")
		default:
			return nil, fault.New(fault.NamespaceShared,
				fmt.Sprintf("container %s uses the network namespace of container %s, which has the role %s", t.ID.Short(), e.target.ID.Short(), e.target.Role),
				"give it a network of its own")
		}
	}
	return nil, nil
}

// build makes the presence and starts serving.
func (a *Attacher) build(ctx context.Context, e *entry, prepare func(context.Context) (Service, error)) error {
	s, err := prepare(ctx)
	if err != nil {
		return err
	}
	release := func(ended bool) {
		if s.Release != nil {
			s.Release(ended)
		}
	}
	at, err := a.o.open(e.target, s, a.o)
	if err != nil {
		release(true)
		return err
	}
	// The facts were read while the process lived; if it has ended meanwhile nobody may be told "attached".
	if !e.target.Process.Alive() {
		release(true)
		return errors.Join(gone(e.target.ID), at.close(false))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		release(false)
		return errors.Join(errClosed, at.close(false))
	}
	e.service, e.at, e.since = s, at, time.Now()
	a.wg.Go(func() { a.keep(e, release) })
	return nil
}

func gone(id container.ID) error {
	return fault.New(fault.ContainerGone, fmt.Sprintf("container %s ended before it could get its role", id.Short()), "start it again")
}

// keep serves e until its container ends or the agent does, and then takes it away.
func (a *Attacher) keep(e *entry, release func(ended bool)) {
	p := e.target.Process
	served := make(chan struct{})
	var failed error // of serve, once served is closed
	go func() {
		defer close(served)
		failed = e.at.serve()
		p.Interrupt()
	}()
	log := a.o.Logger.With(slog.String("container_id", e.target.ID.Short()), slog.String("role", e.target.Role))

	// A container that lives on without us keeps its addresses, so that its requests are refused instead of being routed
	// to the host's own IMDS: closed, not open.
	leave := !p.Wait() && p.Alive()
	if leave {
		select { // what interrupted
		case <-e.stop:
		case <-served:
			log.Error("serving ended by itself", slog.Any("error", failed))
		}
	}
	err := e.at.close(leave)
	<-served
	release(!leave)
	a.forget(e) // before the descriptors go: conflict compares them
	if err := errors.Join(err, e.target.close()); err != nil {
		log.Warn("detach", slog.String("error", err.Error()))
	}
	close(e.done)
	log.Info("detached", slog.Duration("duration", time.Since(e.since)))
}

// forget removes e from the set.
func (a *Attacher) forget(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.entries[e.target.ID] == e {
		delete(a.entries, e.target.ID)
	}
}

// List returns the attached containers, ordered by id.
func (a *Attacher) List() []Attached {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []Attached
	for _, e := range a.entries {
		if e.at == nil {
			continue // still being built
		}
		list = append(list, e.attached())
	}
	slices.SortFunc(list, func(x, y Attached) int { return strings.Compare(string(x.Container.ID), string(y.Container.ID)) })
	return list
}

// Close stops serving every container and waits until nothing is left but the addresses on their lo.
func (a *Attacher) Close() {
	a.mu.Lock()
	a.closed = true
	for _, e := range a.entries {
		if e.at != nil {
			close(e.stop)
			e.target.Process.Interrupt()
		}
	}
	a.mu.Unlock()
	a.wg.Wait()
}
