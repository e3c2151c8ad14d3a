// Package skl steers chosen addresses of one network namespace to one listener, with a BPF program of the type
// sk_lookup, so that nothing has to bind port 80 in the container and the application keeps it.
//
// A connection the program is meant for goes to the listener or is refused; it never goes on to another server, not
// even when the listener has gone. What did not come in through lo is refused too: Linux takes packets for an address
// on lo from any device (the weak host model), and a neighbour on the bridge must not be served. There is one program
// and one map for each namespace, because a program cannot ask which namespace it runs for. The package is separate
// because nothing else may load BPF.
package skl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// ErrNotSupported is what an UnsupportedError matches.
var ErrNotSupported = errors.New("not supported by this kernel")

// UnsupportedError says what the kernel lacks.
type UnsupportedError struct {
	Feature string // what is missing
	Minimum string // the first Linux version that has it
	Err     error  // what the kernel answered
}

// Error names the feature and the version.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s needs Linux %s or later: %v", e.Feature, e.Minimum, e.Err)
}

// Is makes every UnsupportedError an ErrNotSupported.
func (e *UnsupportedError) Is(target error) bool { return target == ErrNotSupported }

// Unwrap returns what the kernel answered.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Steering is a program attached to a namespace. It lasts until it is closed. It does not keep the namespace alive:
// when that goes, the kernel detaches the program.
type Steering struct {
	link    *link.NetNsLink
	ingress bool
}

// Attach sends what is meant for dests, in the network namespace nsFD, to l, which must be a listener of that
// namespace: the kernel does not check. l stays the caller's; once it is closed, connections to dests are refused.
//
// The error matches ErrNotSupported where the kernel is too old (before 5.9) or is built without sk_lookup. Before
// 5.11 the kernel counts programs against RLIMIT_MEMLOCK, which the agent's unit has to lift.
func Attach(nsFD int, l *net.TCPListener, dests []netip.AddrPort) (*Steering, error) {
	program, ingress, err := build(l, dests)
	if err != nil {
		return nil, err
	}
	defer func() { _ = program.Close() }() // the link refers to it
	lk, err := link.AttachNetNs(nsFD, program)
	if err != nil {
		return nil, fmt.Errorf("attach sk_lookup program: %w", err)
	}
	return &Steering{lk, ingress}, nil
}

// build makes the program, with a map of its own.
func build(l *net.TCPListener, dests []netip.AddrPort) (*ebpf.Program, bool, error) {
	dests, err := normalise(dests)
	if err != nil {
		return nil, false, err
	}
	sockets, err := newMap(l)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = sockets.Close() }() // the program refers to it
	return newProgram(sockets, dests)
}

// Update sends what is meant for dests to l, in one step: nothing is let through in between. Both are as for Attach, and
// l may be another listener than before.
func (s *Steering) Update(l *net.TCPListener, dests []netip.AddrPort) error {
	program, ingress, err := build(l, dests)
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }() // the link refers to it
	if err := s.link.Update(program); err != nil {
		return fmt.Errorf("update sk_lookup program: %w", err)
	}
	s.ingress = ingress
	return nil
}

// Attached says whether the program is still attached to a namespace.
func (s *Steering) Attached() bool {
	info, err := s.link.Info()
	if err != nil || info.NetNs() == nil {
		return err != nil // what cannot be asked is not known to be gone
	}
	return info.NetNs().NetnsInode != 0
}

// ChecksIngress says whether the program looks at the device a packet came in through. Kernels before 5.17 do not
// say; there the listener's own binding to lo and the question about the client's socket have to do.
func (s *Steering) ChecksIngress() bool { return s.ingress }

// Close detaches the program: from now on the destinations are anybody's who listens there.
func (s *Steering) Close() error {
	if err := s.link.Close(); err != nil {
		return fmt.Errorf("detach sk_lookup program: %w", err)
	}
	return nil
}

// maxDests keeps the program far from the verifier's limits.
const maxDests = 64

func normalise(dests []netip.AddrPort) ([]netip.AddrPort, error) {
	if len(dests) == 0 || len(dests) > maxDests {
		return nil, fmt.Errorf("steer %d destinations: not between 1 and %d", len(dests), maxDests)
	}
	out := make([]netip.AddrPort, len(dests))
	for i, d := range dests {
		a := d.Addr().Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.Zone() != "" || d.Port() == 0 {
			return nil, fmt.Errorf("steer %s: not one address and one port", d)
		}
		out[i] = netip.AddrPortFrom(a, d.Port())
	}
	return out, nil
}

// newMap makes a map with the listener in it. The map does not keep the listener open: the kernel takes it out when
// its last descriptor is closed.
func newMap(l *net.TCPListener) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "taskrole_socks", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		return nil, unsupported("sockmap", fmt.Errorf("make sockmap: %w", err), features.HaveMapType(ebpf.SockMap))
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("put listener in sockmap: %w", err), m.Close())
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = m.Put(uint32(slot), uint64(fd)) })
	if err := errors.Join(err, inner); err != nil {
		return nil, errors.Join(fmt.Errorf("put listener in sockmap: %w", err), m.Close())
	}
	return m, nil
}

// newProgram loads the program with the ingress check, or without it where the kernel does not know that field.
func newProgram(sockets *ebpf.Map, dests []netip.AddrPort) (_ *ebpf.Program, ingress bool, err error) {
	p, err := load(sockets, dests, true)
	if err == nil {
		return p, true, nil
	}
	if refusesField(err, offIngress) {
		p, err = load(sockets, dests, false)
		if err == nil {
			return p, false, nil
		}
	}
	err = fmt.Errorf("load sk_lookup program: %w", err)
	return nil, false, unsupported("sk_lookup", err, features.HaveProgramType(ebpf.SkLookup))
}

func load(sockets *ebpf.Map, dests []netip.AddrPort, ingress bool) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "taskrole_steer", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Dual MIT/GPL",
		Instructions: program(sockets.FD(), dests, ingress),
	})
}

// refusesField says whether the verifier refused the program for reading a field of its context: any other reason
// must not cost us the check.
func refusesField(err error, offset int16) bool {
	v, ok := errors.AsType[*ebpf.VerifierError](err)
	if !ok {
		return false
	}
	return strings.Contains(strings.Join(v.Log, "\n"), fmt.Sprintf("invalid bpf_context access off=%d ", offset))
}

// unsupported makes err an UnsupportedError if the library's probe says that the kernel lacks the feature.
func unsupported(feature string, err, probe error) error {
	if errors.Is(probe, ebpf.ErrNotSupported) {
		return &UnsupportedError{Feature: feature, Minimum: "5.9", Err: err}
	}
	return err
}
