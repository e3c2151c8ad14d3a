package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"taskrole/internal/fault"
)

const (
	lookupLimit = 5 * time.Second
	dialLimit   = 3 * time.Second // one address
	maxAddrs    = 6               // of one name
)

// dial connects to a target that has been allowed. It resolves the name itself and dials the address it has looked at, so
// no second answer of DNS can lead elsewhere. Errors are *fault.Error.
func (p *Proxy) dial(ctx context.Context, t target) (net.Conn, error) {
	addrs, err := p.resolve(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		var c net.Conn
		if c, err = p.dialOne(ctx, netip.AddrPortFrom(a, t.port)); err == nil {
			return c, nil
		}
	}
	return nil, fault.Wrap(err, fault.EgressUnreachable, fmt.Sprintf("%s may be reached, but does not answer: %v", t, reason(err)),
		"check that this host itself reaches it")
}

func (p *Proxy) dialOne(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return p.dialer(ctx, "tcp", to.String())
}

// resolve returns the addresses of the target that may be reached, at least one.
func (p *Proxy) resolve(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.addr.IsValid() { // it is configured literally, and neverReached was asked then
		return []netip.Addr{t.addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	all, err := p.lookup(ctx, t.host)
	if err != nil {
		return nil, fault.Wrap(err, fault.EgressUnreachable, fmt.Sprintf("the name %s cannot be resolved on this host: %v", t.host, reason(err)),
			"check this host's DNS")
	}
	var good []netip.Addr
	refused := "no address at all"
	for _, a := range all {
		a = a.Unmap().WithZone("")
		switch why := neverReached(a); {
		case why != "":
			refused = why
		case a.IsLoopback():
			refused = "a loopback address, " + a.String()
		case len(good) < maxAddrs:
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		return nil, fault.New(fault.EgressDenied, fmt.Sprintf("the name %s stands for %s", t.host, refused), "check this host's DNS")
	}
	return good, nil
}

// prefixes inside which an address stands for an IPv4 address, and where in its 16 bytes that one begins.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	at := func(i int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[i : i+4])), true }
	const nat64At, sixToFourAt = 12, 2
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a), netip.MustParsePrefix("::/96").Contains(a):
		return at(nat64At)
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return at(sixToFourAt)
	}
	return netip.Addr{}, false
}

// neverReached says why an address must not be connected to whatever the configuration says, or "". Loopback is not among
// them: it may be configured as a literal address, for an endpoint on the host itself.
func neverReached(a netip.Addr) string {
	a = a.Unmap()
	switch {
	case !a.IsValid(), a.IsUnspecified(), netip.MustParsePrefix("0.0.0.0/8").Contains(a):
		return "the unspecified address"
	case a.IsMulticast():
		return "a multicast address"
	case a.IsLinkLocalUnicast():
		// 169.254.169.254 is the host's own metadata service, with the host's own role.
		return "a link-local address"
	case netip.MustParsePrefix("fd00:ec2::/32").Contains(a):
		return "an address of the EC2 instance metadata services"
	case netip.MustParsePrefix("240.0.0.0/4").Contains(a):
		return "a reserved address"
	}
	if v4, ok := embedded(a); ok && a != netip.IPv6Loopback() {
		if v4.IsLoopback() {
			return "a loopback address in disguise"
		}
		return neverReached(v4)
	}
	return ""
}

// reason is the short text of a network error.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		return oe.Err.Error()
	}
	if de, ok := errors.AsType[*net.DNSError](err); ok {
		return de.Err
	}
	return err.Error()
}
