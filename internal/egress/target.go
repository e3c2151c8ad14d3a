package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// target is a destination in one spelling only: a lower-case name without the last dot, or an address.
type target struct {
	host string // empty if addr is valid
	addr netip.Addr
	port uint16
}

// String is host:port.
func (t target) String() string {
	if t.addr.IsValid() {
		return netip.AddrPortFrom(t.addr, t.port).String()
	}
	return t.host + ":" + strconv.Itoa(int(t.port))
}

// endpoint is a configured target and how it is reached.
type endpoint struct {
	target
	plain bool // by plain requests, not by CONNECT
}

var errTarget = errors.New("not a destination")

// maxHost is the longest name DNS has.
const (
	maxHost  = 253
	maxLabel = 63
)

// parseTarget reads host[:port] and nothing more: no user, no zone, no percent-encoding, no other way of writing
// an address than the usual one. Two parsers that read one text differently are how proxies are tricked, so what is not
// plain is refused. A defaultPort of 0 means that the port must be there.
func parseTarget(s string, defaultPort uint16) (target, error) {
	host, port := s, defaultPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != s[i+1:] {
			return target{}, fmt.Errorf("%s has no valid port: %w", cut(s), errTarget)
		}
		host, port = s[:i], uint16(n)
	}
	if port == 0 {
		return target{}, fmt.Errorf("%s has no port: %w", cut(s), errTarget)
	}
	if strings.HasPrefix(host, "[") {
		a, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !strings.HasSuffix(host, "]") || !a.Is6() || a.Zone() != "" {
			return target{}, fmt.Errorf("%s is no IPv6 address: %w", cut(s), errTarget)
		}
		return target{addr: a.Unmap(), port: port}, nil
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return target{addr: a, port: port}, nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !validName(name) {
		return target{}, fmt.Errorf("%s is no host name: %w", cut(s), errTarget)
	}
	return target{host: name, port: port}, nil
}

// validName accepts letters, digits and hyphens in labels. A last label of digits, or one that begins with 0x, would be
// an address to some resolvers (127.1, 0x7f000001).
func validName(name string) bool {
	if name == "" || len(name) > maxHost {
		return false
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > maxLabel || l[0] == '-' || l[len(l)-1] == '-' || strings.IndexFunc(l, notInName) >= 0 {
			return false
		}
	}
	last := labels[len(labels)-1]
	return !strings.HasPrefix(last, "0x") && strings.Trim(last, "0123456789") != ""
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

// parseEndpoint reads an endpoint of the configuration.
func parseEndpoint(s string) (endpoint, error) {
	const httpPort, httpsPort = 80, 443
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") != "" || u.Opaque != "" {
		return endpoint{}, fmt.Errorf("endpoint %s: expected https://host[:port] or http://host[:port]", cut(s))
	}
	e, port := endpoint{}, uint16(httpsPort)
	switch u.Scheme {
	case "https":
	case "http":
		e.plain, port = true, httpPort
	default:
		return endpoint{}, fmt.Errorf("endpoint %s: expected https:// or http://", cut(s))
	}
	if e.target, err = parseTarget(u.Host, port); err != nil {
		return endpoint{}, fmt.Errorf("endpoint %s: %w", cut(s), err)
	}
	if why := neverReached(e.addr); e.addr.IsValid() && why != "" {
		return endpoint{}, fmt.Errorf("endpoint %s: %s is never reached through the proxy", cut(s), why)
	}
	return e, nil
}

// cut quotes untrusted text, and not much of it.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
