package ec2

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"taskrole/internal/address"
	"taskrole/internal/netns"
)

// The addresses of the lab. They exist in its own namespaces only, where nothing else is, so that they cannot
// collide with a network of the machine.
const (
	servicesAddr = "10.99.0.1"     // STS, S3 and the control endpoint, in "aws"
	instanceAddr = "10.99.0.10"    // the instance's own
	linkBits     = "/24"           // between the two
	containers   = "10.99.0.0/16"  // all that "aws" sends back by way of the instance
	dockerBridge = "10.99.16.1/24" // Docker's default bridge
	dockerPool   = "10.99.32.0/19" // Docker's user-defined networks, a /24 each
	controlPort  = "8080"
)

// ContainerPool is the range of addresses for containers that no Docker manages: the rest of the lab routes it to
// the instance and uses none of it.
const ContainerPool = "10.99.128.0/17"

// InstanceAddr is the instance's address on the network it shares with the services.
func InstanceAddr() netip.Addr { return netip.MustParseAddr(instanceAddr) }

// network is the two namespaces, connected.
type network struct{ aws, instance *netns.NS }

// newNetwork makes both namespaces and the veth pair between them. The pair is made inside "aws" with its other end
// put into "instance" by the same request: at no time is there an interface in the machine's own namespace.
func newNetwork() (_ *network, err error) {
	n := &network{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.aws, err = netns.New(); err != nil {
		return nil, fmt.Errorf("make the aws namespace: %w", err)
	}
	if n.instance, err = netns.New(); err != nil {
		return nil, fmt.Errorf("make the instance namespace: %w", err)
	}
	if err := in(n.aws, n.setUpAWS); err != nil {
		return nil, fmt.Errorf("set up the aws namespace: %w", err)
	}
	if err := in(n.instance, setUpInstance); err != nil {
		return nil, fmt.Errorf("set up the instance namespace: %w", err)
	}
	// The way back to containers that are not hidden behind the instance's address. It can only be set once the
	// other end of the pair is up.
	if err := in(n.aws, func() error { return route(containers, instanceAddr) }); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *network) close() {
	for _, ns := range []*netns.NS{n.aws, n.instance} {
		if ns != nil {
			_ = ns.Close() // read-only descriptors: nothing can be lost
		}
	}
}

func (n *network) setUpAWS() error {
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.instance.FD()),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add the veth pair: %w", err)
	}
	if err := addAddress("eth0", servicesAddr+linkBits); err != nil {
		return err
	}
	// Not on the link: the instance must route to it, as on EC2, and so must what is behind the instance.
	return addAddress("lo", address.IMDS.Addr().String()+"/32")
}

func setUpInstance() error {
	if err := addAddress("eth0", instanceAddr+linkBits); err != nil {
		return err
	}
	// No default route: a client that asks for any other address is told so at once.
	if err := route(address.IMDS.Addr().String()+"/32", servicesAddr); err != nil {
		return err
	}
	// The instance routes for its containers. Because it does, an answer with TTL 1 ends here.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("switch on forwarding: %w", err)
	}
	return nil
}

func addAddress(link, cidr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", link, err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("address %s: %w", cidr, err)
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", cidr, link, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

func route(cidr, via string) error {
	dst, err := netlink.ParseIPNet(cidr)
	if err != nil {
		return fmt.Errorf("network %s: %w", cidr, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("add route to %s via %s: %w", cidr, via, err)
	}
	return nil
}

// listen opens a TCP listener inside ns. MPTCP is off: the metadata service sets the TTL of its answers on the
// accepted socket, and on an MPTCP one that need not reach the subflow.
func listen(ctx context.Context, ns *netns.NS, addr string) (net.Listener, error) {
	l, err := netns.Do(ns, func() (net.Listener, error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		return lc.Listen(ctx, "tcp4", addr)
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the aws namespace: %w", addr, err)
	}
	return l, nil
}

// in runs f on a thread inside ns.
func in(ns *netns.NS, f func() error) error {
	_, err := netns.Do(ns, func() (struct{}, error) { return struct{}{}, f() })
	return err
}
