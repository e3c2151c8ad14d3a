package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"taskrole/internal/attest"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/skl"
)

// place is one network namespace: the addresses on its lo, one listener, one steering program and one witness, for
// every container with a role that lives there. Nearly always that is one; several share the host's network, a pod, or
// the network of another container.
//
// What is in the kernel is there as long as there are residents. A place may stand empty for the moment in which the
// last one has left and another is on its way in.
type place struct {
	a       *Attacher
	users   int // who holds it or is about to; guarded by Attacher.mu
	host    bool
	gate    gate
	witness *attest.Witness          // set while there are residents
	living  atomic.Pointer[[]*entry] // the residents, replaced whole, so that accepting never waits for an attach

	mu        sync.Mutex // guards what follows
	ns        *netns.NS  // nil: nothing of ours is there
	reached   []netip.AddrPort
	added     []netip.Addr // by us, now or before a restart; what the container had before is not ours to remove
	listeners []*listener
	steering  *skl.Steering // nil: the kernel cannot steer, and each destination has a listener of its own
	accepting sync.WaitGroup
}

func newPlace(host bool, a *Attacher) *place {
	p := &place{a: a, host: host}
	p.gate.init()
	p.living.Store(new([]*entry))
	return p
}

// residents returns who lives here now. The slice is not to be changed.
func (p *place) residents() []*entry { return *p.living.Load() }

// consider refuses e before anything is done for it, where it is clear already that it cannot live here.
func (p *place) consider(e *entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.admissible(e, p.alive())
}

// alive returns the residents whose containers have not ended.
func (p *place) alive() []*entry {
	return slices.DeleteFunc(slices.Clone(p.residents()), func(r *entry) bool { return !r.process.Alive() })
}

// settle makes e a resident, or changes nothing. It takes e's namespace, which e does not need any more.
func (p *place) settle(e *entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.admissible(e, p.alive()); err != nil {
		return err
	}
	first := p.ns == nil
	if first {
		p.ns = e.takeNS()
	}
	if err := p.reach(e); err != nil {
		if first {
			err = errors.Join(err, p.clear(false))
		}
		return err
	}
	if !first {
		_ = e.takeNS().Close()
	}
	now := append(slices.Clone(p.residents()), e)
	p.living.Store(&now)
	p.gate.resize(p.a.o.Connections * len(now))
	if first {
		p.gate.open()
		if err := p.accept(p.listeners); err != nil {
			p.living.Store(new([]*entry))
			return errors.Join(step(err, e, "watch its listener"), p.clear(false))
		}
	}
	return nil
}

// reach makes e's destinations lead to us, besides those that do already.
func (p *place) reach(e *entry) error {
	dests := slices.DeleteFunc(slices.Clone(e.service.Destinations), func(d netip.AddrPort) bool { return slices.Contains(p.reached, d) })
	if len(dests) == 0 {
		return nil
	}
	if p.host {
		if err := p.unclaimed(dests); err != nil {
			return err
		}
	}
	added, err := p.ns.AddAddresses(hosts(dests))
	if err != nil {
		return step(err, e, "put the addresses on its lo")
	}
	if err := p.listen(e, dests); err != nil {
		return errors.Join(err, p.ns.RemoveAddresses(added))
	}
	p.added = append(p.added, added...)
	if p.reached == nil {
		p.reached = e.service.Destinations // nearly always all there is, and of many containers the same
	} else {
		p.reached = slices.Concat(p.reached, dests)
	}
	return nil
}

// unclaimed refuses addresses that somebody else has on the host, such as an ECS agent: its containers ask there too.
func (p *place) unclaimed(dests []netip.AddrPort) error {
	taken, err := p.ns.Foreign(hosts(dests))
	if err != nil {
		return fault.Wrap(err, fault.Internal, "the agent could not see which addresses the host has", "look at the agent's log")
	}
	if len(taken) == 0 {
		return nil
	}
	return fault.New(fault.HostNetwork, fmt.Sprintf("the host already has the address %s, and it is not the taskrole agent's", taken[0]),
		"stop what serves there (an ECS agent?), or give the container a network of its own")
}

// listen opens what is missing for dests: the witness, and the listener with its program, or one listener for each
// destination on a kernel that cannot steer.
func (p *place) listen(e *entry, dests []netip.AddrPort) (err error) {
	if p.witness == nil {
		if p.witness, err = attest.OpenWitness(p.ns); err != nil {
			return step(err, e, "ask the kernel about its sockets")
		}
	}
	switch {
	case p.steering != nil:
		err = p.steering.Update(p.listeners[0].TCPListener, slices.Concat(p.reached, dests))
	case len(p.listeners) > 0:
		err = p.listenAt(dests)
	default:
		err = p.steer(dests)
		if errors.Is(err, skl.ErrNotSupported) {
			err = p.listenAt(dests)
		}
	}
	if err != nil {
		return step(err, e, "listen in its network namespace")
	}
	return nil
}

func (p *place) steer(dests []netip.AddrPort) error {
	if p.a.o.direct {
		return skl.ErrNotSupported
	}
	l, err := p.ns.Listen()
	if err != nil {
		return err
	}
	if p.steering, err = skl.Attach(p.ns.FD(), l, dests); err != nil {
		_ = l.Close()
		return err
	}
	p.listeners = append(p.listeners, &listener{TCPListener: l})
	return nil
}

func (p *place) listenAt(dests []netip.AddrPort) error {
	var opened []*listener
	for _, d := range dests {
		l, err := p.ns.ListenAt(d)
		if err != nil {
			return errors.Join(err, closeAll(opened))
		}
		opened = append(opened, &listener{TCPListener: l})
	}
	if len(p.listeners) > 0 { // else settle does, once there is somebody to answer
		if err := p.accept(opened); err != nil {
			return errors.Join(err, closeAll(opened))
		}
	}
	p.listeners = append(p.listeners, opened...)
	return nil
}

func closeAll(listeners []*listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// leave ends e's residence. The last one takes everything away; with stay the addresses stay behind.
func (p *place) leave(e *entry, stay bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := slices.DeleteFunc(slices.Clone(p.residents()), func(r *entry) bool { return r == e })
	p.living.Store(&now)
	var err error
	if len(now) == 0 {
		err = p.clear(stay)
	} else {
		p.gate.resize(p.a.o.Connections * len(now))
	}
	p.gate.drop(&e.conns)
	return err
}

// clear takes everything out of the namespace. The listener goes before the program: while that stands without a
// listener, a request is refused and not passed to a server of the container that holds the same port.
func (p *place) clear(stay bool) error {
	if p.ns == nil {
		return nil
	}
	p.gate.shut()
	errs := []error{closeAll(p.listeners)}
	p.accepting.Wait()
	p.gate.drop(&p.gate.strangers)
	if p.steering != nil {
		errs = append(errs, p.steering.Close())
	}
	if p.witness != nil {
		errs = append(errs, p.witness.Close())
	}
	if !stay {
		errs = append(errs, p.ns.RemoveAddresses(p.added))
	}
	errs = append(errs, p.ns.Close())
	p.ns, p.reached, p.added, p.listeners, p.steering, p.witness = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// missing says what somebody took away from the namespace since, or "".
func (p *place) missing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ns == nil {
		return ""
	}
	if p.steering != nil && !p.steering.Attached() {
		return "the steering program"
	}
	gone, err := p.ns.Missing(hosts(p.reached))
	switch {
	case err != nil:
		p.a.o.Logger.Warn("network namespace not looked at", slog.String("error", err.Error()))
		return ""
	case len(gone) > 0:
		return fmt.Sprintf("the address %s on lo", gone[0])
	}
	return ""
}

// direct says that the kernel does not steer.
func (p *place) direct() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ns != nil && p.steering == nil
}

// hosts are the distinct addresses of dests, without the loopback address, which every lo has.
func hosts(dests []netip.AddrPort) []netip.Addr {
	var addrs []netip.Addr
	for _, d := range dests {
		if !d.Addr().IsLoopback() && !slices.Contains(addrs, d.Addr()) {
			addrs = append(addrs, d.Addr())
		}
	}
	return addrs
}
