package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"taskrole/internal/netns"
	"taskrole/lab/ec2"
)

// bridgeBits is the size of one bridge's network.
const bridgeBits = 24

// bridge is one network of containers: a Linux bridge in the instance's namespace that routes for them.
type bridge struct {
	name    string
	gateway netip.Addr
	next    netip.Addr // guarded by network.mu
}

// network is the bridges of one engine. Nothing is translated: the lab's other side knows the way back, so that no
// packet filter is needed, and every packet between container and metadata service is routed, which costs a hop.
type network struct {
	instance *netns.NS
	mu       sync.Mutex
	bridges  map[ec2.Network]*bridge
}

func newNetwork(instance *netns.NS) (*network, error) {
	pool, err := netip.ParsePrefix(ec2.ContainerPool)
	if err != nil {
		return nil, fmt.Errorf("address pool: %w", err)
	}
	n := &network{instance: instance, bridges: map[ec2.Network]*bridge{}}
	base := pool.Addr().As4()
	for i, kind := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom} {
		first := base
		first[2] += byte(i)
		first[3] = 1
		b := &bridge{name: fmt.Sprintf("lab%d", i), gateway: netip.AddrFrom4(first)}
		b.next = b.gateway.Next()
		n.bridges[kind] = b
		if err := in(instance, b.make); err != nil {
			return nil, errors.Join(fmt.Errorf("make bridge %s: %w", b.name, err), n.close())
		}
	}
	return n, nil
}

// close removes the bridges; those of an instance that is gone have gone with it.
func (n *network) close() error {
	return in(n.instance, func() error {
		var errs []error
		for _, b := range n.bridges {
			if l, err := netlink.LinkByName(b.name); err == nil {
				errs = append(errs, netlink.LinkDel(l))
			}
		}
		return errors.Join(errs...)
	})
}

func (b *bridge) make() error {
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.name}}
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, cidr(b.gateway)); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// connect gives the created container of which pid is the first process its interface. The veth pair ends with the
// container's namespace.
func (n *network) connect(kind ec2.Network, pid int, id string) error {
	switch kind {
	case ec2.NetworkNone, ec2.NetworkHost:
		return nil
	case "":
		kind = ec2.NetworkBridge
	}
	b, ok := n.bridges[kind]
	if !ok {
		return fmt.Errorf("there is no network called %q", kind)
	}
	theirs, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }() // read only
	if err := in(n.instance, func() error { return b.attach(theirs, "v"+id[:12]) }); err != nil {
		return fmt.Errorf("connect to bridge %s: %w", b.name, err)
	}
	addr, err := n.take(b)
	if err != nil {
		return err
	}
	if err := in(theirs, func() error { return configure(addr, b.gateway) }); err != nil {
		return fmt.Errorf("configure eth0: %w", err)
	}
	return nil
}

// take hands out the next address; the lab's engines do not live long enough to need one again.
func (n *network) take(b *bridge) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := b.next
	if a.As4()[3] == 255 {
		return a, fmt.Errorf("bridge %s has no addresses left", b.name)
	}
	b.next = a.Next()
	return a, nil
}

// attach makes the pair in the instance with its other end in the container.
func (b *bridge) attach(theirs *netns.NS, name string) error {
	master, err := netlink.LinkByName(b.name)
	if err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: master.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(theirs.FD()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	return netlink.LinkSetUp(veth)
}

// configure runs in the container's namespace.
func configure(addr, gateway netip.Addr) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, cidr(addr)); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice()})
}

func cidr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bridgeBits, a.BitLen())}}
}

// in runs f inside ns.
func in(ns *netns.NS, f func() error) error {
	_, err := netns.Do(ns, func() (struct{}, error) { return struct{}{}, f() })
	return err
}
