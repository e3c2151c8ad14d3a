// Package attach keeps the agent's presence in containers: for each attached container the addresses on its lo, one
// listener, one steering program and one witness, from the moment the hook asks until the container's first process
// ends. Containers that share a network namespace share these, and each connection is served as its own container's, by
// the cgroup of the client's socket.
//
// It knows namespaces, processes and connections. It does not know roles' credentials, policy or HTTP dialects: those
// come in as a Service. It refuses two roles in one namespace where no cgroup tells the containers apart, or where one
// of them could read the other's answers.
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
	"sync/atomic"
	"syscall"
	"time"

	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/readiness"
	"taskrole/internal/skl"
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
	// Host says that NS is the host's own, where a container is only its cgroup.
	Host bool
	// Confined says that the container has neither CAP_NET_RAW nor CAP_NET_ADMIN and cannot get them. Only then may it
	// share a namespace with another role.
	Confined bool
	// Mixed says that the administrator lets containers of the role share a namespace with other roles although
	// neighbours there may read their credentials.
	Mixed bool
}

// close gives what is left of both descriptors back.
func (t Target) close() error {
	err := t.Process.Close()
	if t.NS != nil {
		err = errors.Join(err, t.NS.Close())
	}
	return err
}

// Service is what a container gets.
type Service struct {
	Container    container.Container
	RoleARN      string
	Session      string           // role session name, the same for the container's life
	Destinations []netip.AddrPort // where it is found, inside the namespace
	// Handle takes over a connection of the container's. It must not wait.
	Handle func(net.Conn)
	// Release is called once, when nothing is served any more; ended says that the container has ended or never got the
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
	Host      bool // it is on the host's network
	Shared    bool // other containers with a role are in its network namespace
	Addresses []netip.AddrPort
	// Missing is what somebody with NET_ADMIN in the namespace has taken away from there, or "". Its containers are
	// refused then, and nobody else suffers. Only Look fills it.
	Missing string
}

// Options configure an Attacher. The zero value of each field is its default.
type Options struct {
	Logger *slog.Logger // must not be nil
	// Tree is the host's cgroup hierarchy; must not be nil. On a host with cgroup v1 alone it tells no containers apart, and
	// the namespace alone is the identity.
	Tree *attest.Tree
	// Connections bounds what one container may have open at once, 256 by default. What is beyond waits in the kernel's
	// queue, or is refused where it shares its namespace: one container cannot use up the agent's descriptors.
	Connections int
	// Stranger takes over connections of processes that are in the namespace but in no container with a role. Their
	// method Refused says what to answer. Must not be nil, and must not wait.
	Stranger func(net.Conn)

	direct bool // tests do without sk_lookup, as on a kernel before 5.9
}

// Attacher keeps the set of attached containers. It is safe for concurrent use.
type Attacher struct {
	o   Options
	set *readiness.Set // of the processes and the listeners

	mu      sync.Mutex // guards what follows
	entries map[container.ID]*entry
	places  map[netns.ID]*place // an id is a namespace's as long as somebody uses its place
	closed  bool

	wg sync.WaitGroup // one for each entry that is attached
}

// entry is one container, from the first request for it on.
type entry struct {
	target  Target
	process *attest.Process // the target's
	service Service
	since   time.Time
	ready   chan struct{} // closed when err and what follows are settled
	err     error
	done    chan struct{} // closed when nothing is left of it

	attested bool          // cgroup is the container's own; else the namespace is the identity
	cgroup   attest.Cgroup // what tells it from others in its namespace
	named    bool          // an engine made that cgroup for this very container
	at       *place
	nsID     netns.ID
	watch    *readiness.Watch // for the end of its process
	begun    bool             // it is attached, or has been; guarded by Attacher.mu
	unwanted atomic.Bool      // it is to be taken away although its process lives
	ending   sync.Once
	conns    list // guarded by the place's gate
}

// takeNS hands the namespace over, whose closing is then somebody else's.
func (e *entry) takeNS() *netns.NS {
	ns := e.target.NS
	e.target.NS = nil
	return ns
}

const defaultConnections = 256

// New makes an Attacher.
func New(o Options) (*Attacher, error) {
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	set, err := readiness.NewSet()
	if err != nil {
		return nil, fmt.Errorf("watch containers: %w", err)
	}
	return &Attacher{o: o, set: set, entries: map[container.ID]*entry{}, places: map[netns.ID]*place{}}, nil
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
		PID: e.process.PID(), Since: e.since, Direct: e.at.direct(), Addresses: e.service.Destinations,
		Host: e.target.Host, Shared: len(e.at.residents()) > 1,
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
			e = &entry{target: t, process: t.Process, ready: make(chan struct{}), done: make(chan struct{})}
			a.entries[t.ID] = e
			first = true
		}
		a.mu.Unlock()
		if err != nil || first || e.process.Same(t.Process) {
			return e, first, err
		}
		select {
		case <-e.done: // its process has ended, as conflict saw
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// conflict returns the entry that has t's id, if it is t's own or about to go, and a fault if it is somebody else's.
func (a *Attacher) conflict(t Target) (*entry, error) {
	e := a.entries[t.ID]
	switch {
	case e == nil:
		return nil, nil
	case !e.process.Alive():
		return e, nil
	case !e.process.Same(t.Process):
		return nil, fault.New(fault.RequestInvalid,
			fmt.Sprintf("another live process already stands for container %s", t.ID.Short()), "stop it first; two engines may have used the same id")
	case e.target.Role != t.Role:
		return nil, fault.New(fault.NamespaceShared,
			fmt.Sprintf("container %s already has the role %s", t.ID.Short(), e.target.Role), "ask for one role only")
	}
	return e, nil
}

// build gets the service and a place for it.
func (a *Attacher) build(ctx context.Context, e *entry, prepare func(context.Context) (Service, error)) (err error) {
	if err := a.identify(e); err != nil {
		return err
	}
	e.at = a.enterPlace(e)
	if err = e.at.consider(e); err == nil {
		e.service, err = prepare(ctx)
	}
	if err != nil {
		a.leavePlace(e)
		return err
	}
	e.since = time.Now()
	if err := e.at.settle(e); err != nil { //nolint:contextcheck // listening does not wait
		a.leavePlace(e)
		e.release(true)
		return err
	}
	if err = a.begin(e); err != nil {
		e.watch.Remove()
		err = errors.Join(err, e.at.leave(e, false))
		a.leavePlace(e)
		e.release(true)
	}
	return err
}

// begin watches e's process from now on, and counts e as attached.
func (a *Attacher) begin(e *entry) (err error) {
	e.watch, err = a.set.Watch(e.process, func() {
		go func() {
			if <-e.ready; e.err == nil {
				a.end(e)
			}
		}()
	})
	if err != nil {
		return step(err, e, "watch its first process")
	}
	// The facts were read while the process lived; if it has ended meanwhile nobody may be told "attached".
	if !e.process.Alive() {
		return gone(e.target.ID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errClosed
	}
	a.wg.Add(1)
	e.begun = true
	return nil
}

// identify finds out what tells e from others in its namespace.
func (a *Attacher) identify(e *entry) (err error) {
	e.nsID = e.target.NS.ID()
	e.cgroup, e.attested = e.target.Cgroup, e.target.Cgroup.ID != 0
	if !e.attested {
		if e.cgroup, e.attested, err = a.o.Tree.Of(e.process); err != nil {
			return step(err, e, "read its cgroup")
		}
	}
	if !e.attested {
		a.log(e).Warn("no cgroup v2 tells this container's processes apart; its network namespace alone is the identity")
		return nil
	}
	own, ok, err := a.o.Tree.Enclosing(e.cgroup, string(e.target.ID))
	if err != nil {
		return step(err, e, "read its cgroup")
	}
	if ok {
		e.cgroup, e.named = own, true
	}
	return nil
}

// enterPlace returns the place of e's namespace, and holds it for e.
func (a *Attacher) enterPlace(e *entry) *place {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.places[e.nsID]
	if p == nil {
		p = newPlace(e.target.Host, a)
		a.places[e.nsID] = p
	}
	p.users++
	return p
}

// leavePlace lets e's place go.
func (a *Attacher) leavePlace(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.at.users--; e.at.users == 0 {
		delete(a.places, e.nsID)
	}
}

func gone(id container.ID) error {
	return fault.New(fault.ContainerGone, fmt.Sprintf("container %s ended before it could get its role", id.Short()), "start it again")
}

func (e *entry) release(ended bool) {
	if e.service.Release != nil {
		e.service.Release(ended)
	}
}

func (a *Attacher) log(e *entry) *slog.Logger {
	return a.o.Logger.With(slog.String("container_id", e.target.ID.Short()), slog.String("role", e.target.Role))
}

// end takes e away, once. A container that lives on without us keeps its addresses, so that its requests are refused
// instead of being routed to the host's own IMDS: closed, not open.
func (a *Attacher) end(e *entry) {
	e.ending.Do(func() {
		defer a.wg.Done()
		ended := !e.process.Alive() || e.unwanted.Load()
		err := e.at.leave(e, !ended)
		a.leavePlace(e)
		e.release(ended)
		a.forget(e)
		e.watch.Remove()
		if err := errors.Join(err, e.target.close()); err != nil {
			a.log(e).Warn("detach", slog.String("error", err.Error()))
		}
		close(e.done)
		a.log(e).Info("detached", slog.Duration("duration", time.Since(e.since)))
	})
}

// failed ends what lives at a place that accepts nothing any more.
func (a *Attacher) failed(p *place, err error) {
	for _, e := range p.residents() {
		if <-e.ready; e.err == nil {
			a.log(e).Error("serving ended by itself", slog.String("error", err.Error()))
			a.end(e)
		}
	}
}

// forget removes e from the set.
func (a *Attacher) forget(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.entries[e.target.ID] == e {
		delete(a.entries, e.target.ID)
	}
}

// live returns the entries that are attached, ordered by id.
func (a *Attacher) live() []*entry {
	a.mu.Lock()
	var list []*entry
	for _, e := range a.entries {
		if e.begun {
			list = append(list, e)
		}
	}
	a.mu.Unlock()
	for _, e := range list {
		<-e.ready // at once
	}
	slices.SortFunc(list, func(x, y *entry) int { return strings.Compare(string(x.target.ID), string(y.target.ID)) })
	return list
}

// Has says whether the container is attached.
func (a *Attacher) Has(id container.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[id]
	return e != nil && e.begun
}

// Detach ends the service of a container that lives on, and takes everything of it away.
func (a *Attacher) Detach(id container.ID) {
	a.mu.Lock()
	e := a.entries[id]
	a.mu.Unlock()
	if e == nil || !a.Has(id) {
		return
	}
	<-e.ready
	e.unwanted.Store(true)
	a.end(e)
}

// List returns the attached containers, ordered by id.
func (a *Attacher) List() []Attached {
	var list []Attached
	for _, e := range a.live() {
		list = append(list, e.attached())
	}
	return list
}

// Look is List, and looks into each namespace whether all of ours is still there: some 0.1 ms for each.
func (a *Attacher) Look() []Attached {
	var list []Attached
	for _, e := range a.live() {
		x := e.attached()
		x.Missing = e.at.missing()
		list = append(list, x)
	}
	return list
}

// Close stops serving every container and waits until nothing is left but the addresses on their lo.
func (a *Attacher) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	for _, e := range a.live() {
		a.end(e)
	}
	a.wg.Wait()
	_ = a.set.Close()
}

// step words what went wrong in e's namespace for the person who started the container.
func step(err error, e *entry, what string) error {
	if !e.process.Alive() {
		return gone(e.target.ID)
	}
	code, hint := fault.Internal, "look at the agent's log"
	if errors.Is(err, syscall.EADDRINUSE) {
		where := "the endpoint's port"
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
			where = op.Addr.String()
		}
		return fault.Wrap(err, fault.PortTaken, fmt.Sprintf("container %s: a program in its network already has %s, which the endpoint needs for itself before Linux 5.9",
			e.target.ID.Short(), where), "let the program listen on another port or at one address, or use Linux 5.9 or newer")
	}
	if errors.Is(err, skl.ErrNotSupported) {
		code, hint = fault.KernelUnsupported, "Linux 5.9 or newer is needed"
	}
	return fault.Wrap(err, code, fmt.Sprintf("container %s: the agent could not %s", e.target.ID.Short(), what), hint)
}
