package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"taskrole/internal/attest"
	"taskrole/internal/fault"
	"taskrole/internal/readiness"
)

// errDrop means that nobody is there to read an answer, or that the kernel does not say who.
var errDrop = errors.New("no live client")

// judge says whose a connection is: a resident's, or nobody's, who is then told so; errDrop where only a reset is
// right. It is asked once for each connection, since the creator of a socket cannot change.
func (p *place) judge(local, remote netip.AddrPort) (*entry, error) {
	s, err := p.witness.Client(local, remote)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDrop, err)
	}
	residents := p.residents()
	for _, e := range residents {
		if !e.attested || e.cgroup.ID == s.Cgroup {
			return e, nil
		}
	}
	cgroups := make([]attest.Cgroup, 0, len(residents))
	for _, e := range residents {
		cgroups = append(cgroups, e.cgroup)
	}
	i, err := p.a.o.Tree.Nearest(s.Cgroup, cgroups)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDrop, err)
	}
	if i < 0 {
		return nil, nil //nolint:nilnil // documented: nobody's
	}
	return residents[i], nil
}

// notTheirs is what a process hears that is in the namespace and in no container with a role.
func (p *place) notTheirs() *fault.Error {
	residents := p.residents()
	where := "on the host's network but in no container with a role"
	if !p.host {
		where = "in the network namespace of a container with a role but not in the container"
		if len(residents) == 1 {
			where = "in the network namespace of container " + residents[0].title() + " but not in the container"
		}
	}
	return fault.New(fault.NotThisContainer, "this process is "+where, "only the container's own processes get its role")
}

// listener is one whose connections are waited for by the set, so that no goroutine does.
type listener struct {
	*net.TCPListener
	watch *readiness.Watch
}

func (l *listener) close() error {
	l.watch.Remove()
	return l.Close()
}

// accept starts accepting from the listeners, until the place is cleared.
func (p *place) accept(listeners []*listener) error {
	for _, l := range listeners {
		armed := make(chan struct{})
		w, err := p.a.set.Watch(l.TCPListener, func() {
			if p.gate.begin(&p.accepting) {
				go func() {
					defer p.accepting.Done()
					<-armed
					p.acceptWaiting(l)
				}()
			}
		})
		if err != nil {
			return err
		}
		l.watch = w
		close(armed)
	}
	return nil
}

// acceptWaiting accepts what waits at l, and then has l watched again.
func (p *place) acceptWaiting(l *listener) {
	err := p.acceptAll(l)
	if err == nil && !p.gate.isShut() {
		err = l.watch.Again()
	}
	if err != nil && !p.gate.isShut() {
		go p.a.failed(p, err) // it clears the place, and so waits for this goroutine
	}
}

// acceptAll takes a slot before each connection, so that what is beyond the bound costs the agent no descriptor.
func (p *place) acceptAll(l *listener) error {
	pause := time.Duration(0)
	for first := true; p.gate.take(); first = false {
		if !first && !readiness.Now(l) {
			p.gate.free()
			return nil
		}
		c, err := l.AcceptTCP()
		if err == nil {
			pause = 0
			p.admit(c)
			continue
		}
		p.gate.free()
		switch {
		case p.gate.isShut():
			return nil
		case !passing(err):
			return err
		}
		pause = min(max(2*pause, shortPause), longPause)
		p.a.o.Logger.Warn("connection not accepted", slog.String("error", err.Error()))
		p.gate.sleep(pause)
	}
	return nil
}

// The pauses after a failure to accept.
const (
	shortPause = 5 * time.Millisecond
	longPause  = time.Second
)

// passing says whether accept may succeed later: the host or the agent is short of something, or the client has left.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit hands c over to whom it belongs. It holds a slot until c is closed.
func (p *place) admit(c *net.TCPConn) {
	e, err := p.judge(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
	if err != nil {
		p.a.o.Logger.Debug("connection dropped", slog.String("error", err.Error()))
		p.gate.free()
		reset(c)
		return
	}
	a := &conn{TCPConn: c, gate: &p.gate, of: &p.gate.strangers}
	most, handle := max(1, p.a.o.Connections/strangers), p.a.o.Stranger
	if e != nil {
		a.of, most, handle = &e.conns, p.a.o.Connections, e.service.Handle
	} else {
		a.refused = p.notTheirs()
	}
	if !p.gate.enter(a, most) {
		p.gate.free()
		reset(c)
		return
	}
	handle(a)
}

// reset closes c so that nobody waits for an answer.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// strangers is one in how many of a container's places may be taken by processes outside: they are told that they get
// nothing, and must not keep the container from what it gets.
const strangers = 4

// gate counts the connections of a place, and can drop those of one resident.
type gate struct {
	mu        sync.Mutex // guards what follows
	changed   sync.Cond  // of taken, most and closed
	taken     int
	most      int
	closed    chan struct{} // nil, or closed: nobody is let in
	strangers list
}

// list is the open connections of one resident, or of strangers. It is no map, which would keep its size after a burst.
type list struct {
	first *conn
	count int
	ended bool // no more are let in
}

func (g *gate) init() { g.changed.L = &g.mu }

// open lets connections in again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
	g.strangers.ended = false
}

// begin counts one more who accepts, unless the gate is shut.
func (g *gate) begin(accepting *sync.WaitGroup) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shutNow() {
		return false
	}
	accepting.Add(1)
	return true
}

// shut makes take say false.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shutNow() {
		close(g.closed)
	}
	g.changed.Broadcast()
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shutNow()
}

// shutNow is isShut for who holds mu.
func (g *gate) shutNow() bool {
	select {
	case <-g.closed:
		return true
	default:
		return g.closed == nil
	}
}

// sleep returns after d, or when the gate is shut.
func (g *gate) sleep(d time.Duration) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-closed:
	case <-t.C:
	}
}

func (g *gate) resize(most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most = most
	g.changed.Broadcast()
}

// take waits for a slot; false says that the gate is shut.
func (g *gate) take() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.shutNow() && g.taken >= g.most {
		g.changed.Wait()
	}
	if g.shutNow() {
		return false
	}
	g.taken++
	return true
}

func (g *gate) free() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.taken--
	g.changed.Signal()
}

// enter puts c into its list, which has room for so many.
func (g *gate) enter(c *conn, most int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.of.ended || c.of.count >= most {
		return false
	}
	c.next = c.of.first
	if c.next != nil {
		c.next.before = c
	}
	c.of.first = c
	c.of.count++
	return true
}

// remove takes c out of its list.
func (g *gate) remove(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.before != nil {
		c.before.next = c.next
	} else {
		c.of.first = c.next
	}
	if c.next != nil {
		c.next.before = c.before
	}
	c.before, c.next = nil, nil
	c.of.count--
	g.taken--
	g.changed.Signal()
}

// drop closes every connection of l for good: an open one keeps the container's namespace alive, and a tunnel of the
// proxy would outlive the container.
func (g *gate) drop(l *list) {
	g.mu.Lock()
	l.ended = true
	open := make([]*conn, 0, l.count)
	for c := l.first; c != nil; c = c.next {
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
	gate         *gate
	of           *list
	before, next *conn
	refused      *fault.Error
	once         sync.Once
}

// Refused is nil for a process of the container; else every request on the connection gets this answer.
func (c *conn) Refused() *fault.Error { return c.refused }

// Close frees the slot.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.TCPConn.Close()
		c.gate.remove(c)
	})
	return err
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}
