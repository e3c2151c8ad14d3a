package config

import (
	"errors"
	"net/netip"

	"go.yaml.in/yaml/v3"
)

// GuardMode is what happens to containers that ask the host's own instance metadata service.
type GuardMode string

// The modes.
const (
	GuardOff     GuardMode = "off"     // nothing, the default
	GuardAudit   GuardMode = "audit"   // they are counted and named
	GuardEnforce GuardMode = "enforce" // they are kept off it as well
)

// Guard is who may reach the host's own instance metadata service.
type Guard struct {
	Mode     GuardMode
	Names    []string       // patterns: containers on the host's network that keep access
	Networks []netip.Prefix // source addresses that keep access
}

// What is allowed in guard.
const (
	allowedGuardMode = "off, audit or enforce"
	allowedGuard     = allowedGuardMode + ", or a mapping with mode and except"
	allowedExcept    = "a list of {name: PATTERN} and {network: ADDRESS/BITS}"
	allowedException = "one of name: PATTERN and network: ADDRESS/BITS"
	allowedNetwork   = "an address and its number of fixed bits, such as 10.1.2.0/24 or fd00:1::/64, with at least one bit and no others set"
)

// guard reads a mode alone, or a mapping with exceptions.
func (w *walker) guard(c *Config, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode {
		c.Guard.Mode = value(w, n, path, allowedGuard, guardMode)
		return
	}
	if !w.is(n, path, yaml.MappingNode, allowedGuard) {
		return
	}
	seen := w.mapping(n, path, []field{
		{"mode", func(n *yaml.Node, p string) { c.Guard.Mode = value(w, n, p, allowedGuardMode, guardMode) }},
		{"except", func(n *yaml.Node, p string) {
			w.list(n, p, allowedExcept, func(n *yaml.Node, p string) { w.exception(c, n, p) })
		}},
	})
	if seen["mode"] == nil {
		w.add(n, path, "no mode is given", allowedGuardMode)
	}
}

func (w *walker) exception(c *Config, n *yaml.Node, path string) {
	g := &c.Guard
	seen := w.mapping(n, path, []field{
		{"name", func(n *yaml.Node, p string) { g.Names = append(g.Names, value(w, n, p, allowedPattern, pattern)) }},
		{"network", func(n *yaml.Node, p string) { g.Networks = append(g.Networks, value(w, n, p, allowedNetwork, network)) }},
	})
	if n.Kind == yaml.MappingNode && len(seen) != 1 {
		w.add(n, path, "an exception is one thing", allowedException)
	}
}

func guardMode(s string) (GuardMode, error) {
	if m := GuardMode(s); m == GuardOff || m == GuardAudit || m == GuardEnforce {
		return m, nil
	}
	return "", errors.New(quote(s) + " is no mode of the guard")
}

func network(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New(quote(s) + " is no network")
	}
	return p, nil
}
