package egress

import "net/netip"

// ParseTarget is parseTarget, with the spelling it understood.
func ParseTarget(s string, defaultPort uint16) (text, host string, addr netip.Addr, err error) {
	t, err := parseTarget(s, defaultPort)
	if err != nil {
		return "", "", netip.Addr{}, err
	}
	return t.String(), t.host, t.addr, nil
}

// NeverReached is neverReached.
func NeverReached(a netip.Addr) string { return neverReached(a) }

// Allows says whether CONNECT to host:port is allowed.
func (p *Proxy) Allows(hostport string) bool {
	t, err := parseTarget(hostport, 0)
	return err == nil && p.allowed(t, false) == nil
}

// MaxOpen is maxOpen.
const MaxOpen = maxOpen
