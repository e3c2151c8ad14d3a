package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"taskrole/internal/attest"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/skl"
)

// kernelPresence is a presence made of real kernel objects.
type kernelPresence struct {
	ns       *netns.NS
	added    []netip.Addr // by us; what the container had before is not ours to remove
	gates    []*gate
	serveOn  func(net.Listener) error
	steering *skl.Steering // nil: the kernel cannot steer
	witness  *attest.Witness
}

// openPresence puts addresses, listener, program and witness into t's namespace, or nothing at all.
func openPresence(t Target, s Service, o Options) (_ presence, err error) {
	p := &kernelPresence{ns: t.NS, serveOn: s.Serve}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(false))
		}
	}()
	if p.added, err = t.NS.AddAddresses(hosts(s.Destinations)); err != nil {
		return nil, step(err, t, "put the addresses on its lo")
	}
	if p.witness, err = attest.OpenWitness(t.NS); err != nil {
		return nil, step(err, t, "ask the kernel about its sockets")
	}
	w := &watch{witness: p.witness, container: s.Container, tree: o.Tree, cgroup: t.Cgroup, attested: t.Cgroup.ID != 0}
	if !w.attested {
		if w.cgroup, w.attested, err = o.Tree.Of(t.Process); err != nil {
			return nil, step(err, t, "read its cgroup")
		}
	}
	if !w.attested {
		o.Logger.Warn("no cgroup v2 tells this container's processes apart; its network namespace alone is the identity",
			slog.String("container_id", t.ID.Short()))
	}
	if err := p.listen(t, s.Destinations, func(l *net.TCPListener) *gate { return newGate(l, w, o.Connections, o.Logger) }); err != nil {
		return nil, step(err, t, "listen in its network namespace")
	}
	return p, nil
}

// listen makes one listener and steers every destination to it; on a kernel that cannot, one listener for each.
func (p *kernelPresence) listen(t Target, dests []netip.AddrPort, wrap func(*net.TCPListener) *gate) error {
	l, err := t.NS.Listen()
	if err != nil {
		return err
	}
	p.steering, err = skl.Attach(t.NS.FD(), l, dests)
	if err == nil {
		p.gates = append(p.gates, wrap(l))
		return nil
	}
	_ = l.Close()
	if !errors.Is(err, skl.ErrNotSupported) {
		return err
	}
	for _, d := range dests {
		l, err := t.NS.ListenAt(d)
		if err != nil {
			return err
		}
		p.gates = append(p.gates, wrap(l))
	}
	return nil
}

// serve implements presence.
func (p *kernelPresence) serve() error {
	if len(p.gates) == 1 { // nearly always: a goroutine's stack less for each container
		return p.serveOn(p.gates[0])
	}
	served := make(chan error, len(p.gates))
	for _, g := range p.gates {
		go func() { served <- p.serveOn(g) }()
	}
	var err error
	for range p.gates {
		err = errors.Join(err, <-served)
	}
	return err
}

// close implements presence. The program goes first: while it stands a request is refused and not passed to a server
// of the container that holds the same port.
func (p *kernelPresence) close(leave bool) error {
	var errs []error
	for _, g := range p.gates {
		errs = append(errs, g.Close())
		g.drop()
	}
	if p.steering != nil {
		errs = append(errs, p.steering.Close())
	}
	if p.witness != nil {
		errs = append(errs, p.witness.Close())
	}
	if !leave && len(p.added) > 0 {
		errs = append(errs, p.ns.RemoveAddresses(p.added))
	}
	return errors.Join(errs...)
}

func (p *kernelPresence) direct() bool { return p.steering == nil }

// hosts are the distinct addresses of dests, without the loopback address, which every lo has.
func hosts(dests []netip.AddrPort) []netip.Addr {
	var addrs []netip.Addr
	for _, d := range dests {
		if !d.Addr().IsLoopback() {
			addrs = append(addrs, d.Addr())
		}
	}
	return addrs
}

// step words what went wrong in t's namespace for the person who started the container.
func step(err error, t Target, what string) error {
	if !t.Process.Alive() {
		return gone(t.ID)
	}
	code, hint := fault.Internal, "look at the agent's log"
	if errors.Is(err, skl.ErrNotSupported) {
		code, hint = fault.KernelUnsupported, "Linux 5.9 or newer is needed"
	}
	return fault.Wrap(err, code, fmt.Sprintf("container %s: the agent could not %s", t.ID.Short(), what), hint)
}
