package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// watch decides whose a connection is. It is asked once for each: the creator of a socket cannot change.
type watch struct {
	witness   *attest.Witness
	tree      *attest.Tree
	cgroup    attest.Cgroup
	attested  bool // cgroup is the container's own; else the namespace is the identity
	container container.Container
}

// errDrop means that nobody is there to read an answer, or that the kernel does not say who.
var errDrop = errors.New("no live client")

// judge returns nil for a process of the container, a fault for another process in its namespace, which is told so,
// and errDrop where only a reset is right.
func (w *watch) judge(local, remote netip.AddrPort) error {
	s, err := w.witness.Client(local, remote)
	if err != nil {
		return fmt.Errorf("%w: %w", errDrop, err)
	}
	if !w.attested {
		return nil
	}
	own, err := w.tree.Within(s.Cgroup, w.cgroup)
	if err != nil {
		return fmt.Errorf("%w: %w", errDrop, err)
	}
	if !own {
		return fault.New(fault.NotThisContainer,
			"this process is in the network namespace of container "+w.container.Title()+" but not in the container",
			"only the container's own processes get its role")
	}
	return nil
}

// gate is a listener that lets in what watch allows, at most so many at a time, and can drop all it let in.
type gate struct {
	*net.TCPListener
	watch interface {
		judge(local, remote netip.AddrPort) error
	}
	log   *slog.Logger
	slots chan struct{}
	shut  chan struct{}

	mu      sync.Mutex // guards what follows
	conns   map[*conn]struct{}
	refused int // how many of conns are not the container's
	down    bool
}

// strangers is one in how many places may be taken by processes outside the container: they are told that they get
// nothing, and must not keep the container from what it gets.
const strangers = 4

func newGate(l *net.TCPListener, w *watch, connections int, log *slog.Logger) *gate {
	return &gate{
		TCPListener: l, watch: w, log: log,
		slots: make(chan struct{}, connections), shut: make(chan struct{}), conns: map[*conn]struct{}{},
	}
}

// Accept waits for a free slot first, so that what is beyond the bound costs the agent no descriptor.
func (g *gate) Accept() (net.Conn, error) {
	for {
		select {
		case g.slots <- struct{}{}:
		case <-g.shut:
			return nil, net.ErrClosed
		}
		c, err := g.AcceptTCP()
		if err != nil {
			<-g.slots
			return nil, err
		}
		err = g.watch.judge(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
		if errors.Is(err, errDrop) {
			g.log.Debug("connection dropped", slog.String("error", err.Error()))
			_ = c.SetLinger(0) // a reset: there is no reader
			_ = c.Close()
			<-g.slots
			continue
		}
		if a := g.admit(c, err); a != nil {
			return a, nil
		}
	}
}

// admit makes c one of the gate's, unless the gate has been dropped meanwhile or c is one refused connection too many.
func (g *gate) admit(c *net.TCPConn, refusal error) net.Conn {
	a := &conn{TCPConn: c, gate: g}
	if refusal != nil {
		a.refused = fault.As(refusal)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down || a.refused != nil && g.refused >= max(1, cap(g.slots)/strangers) {
		_ = c.SetLinger(0)
		_ = c.Close()
		<-g.slots
		return nil
	}
	g.conns[a] = struct{}{}
	if a.refused != nil {
		g.refused++
	}
	return a
}

// Close stops accepting. It may be called more than once: http.Server closes its listener too.
func (g *gate) Close() error {
	g.mu.Lock()
	select {
	case <-g.shut:
	default:
		close(g.shut)
	}
	g.mu.Unlock()
	if err := g.TCPListener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// drop closes every connection: an open one keeps the container's namespace alive, and a tunnel of the proxy would
// outlive the container.
func (g *gate) drop() {
	g.mu.Lock()
	g.down = true
	open := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		open = append(open, c)
	}
	g.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// conn is a connection that holds a slot.
type conn struct {
	*net.TCPConn
	gate    *gate
	refused *fault.Error
	once    sync.Once
}

// Refused is nil for a process of the container; else every request on the connection gets this answer.
func (c *conn) Refused() *fault.Error { return c.refused }

// Close frees the slot.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.TCPConn.Close()
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		if c.refused != nil {
			c.gate.refused--
		}
		c.gate.mu.Unlock()
		<-c.gate.slots
	})
	return err
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}
