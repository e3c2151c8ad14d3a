package endpoint

import (
	"net"
	"sync"
	"time"
)

// timed is a connection on which it costs next to nothing to set deadlines that do not pass.
//
// net/http sets seven for a request, and each one moves a timer of the runtime. Here a deadline is a note, and one timer
// for both directions fires when the earliest of them may have passed; if it has been moved meanwhile, the timer is set
// anew. Only what has passed is told to the connection below. A deadline is never late, and whoever waits when it passes
// is woken as without us.
type timed struct {
	net.Conn

	mu     sync.Mutex // guards what follows
	read   deadline
	write  deadline
	timer  *time.Timer
	fires  time.Time // when the timer does; zero: it does not
	closed bool
}

// deadline is that of one direction.
type deadline struct {
	at     time.Time // when it passes; zero: never
	passed bool      // it has, and the connection below knows
}

// SetDeadline implements net.Conn.
func (c *timed) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *timed) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set(&c.read, t, c.Conn.SetReadDeadline)
}

// SetWriteDeadline implements net.Conn.
func (c *timed) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set(&c.write, t, c.Conn.SetWriteDeadline)
}

// set makes t the deadline d. below sets the one of the connection below.
func (c *timed) set(d *deadline, t time.Time, below func(time.Time) error) error {
	if c.closed {
		return net.ErrClosed
	}
	soon := !t.IsZero() && (c.fires.IsZero() || t.Before(c.fires)) // before the timer would look
	if soon {
		wait := time.Until(t)
		if wait <= 0 {
			d.at, d.passed = time.Time{}, true
			return below(t)
		}
		c.fireIn(wait, t)
	}
	d.at = t
	if !d.passed {
		return nil
	}
	d.passed = false
	return below(time.Time{})
}

// fireIn sets the timer, which then fires at t.
func (c *timed) fireIn(wait time.Duration, t time.Time) {
	c.fires = t
	if c.timer == nil {
		c.timer = time.AfterFunc(wait, c.fire)
		return
	}
	c.timer.Reset(wait)
}

// fire tells the connection below what has passed, and sets the timer for what has not.
func (c *timed) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fires = time.Time{}
	if c.closed {
		return
	}
	next := time.Time{}
	for _, direction := range []struct {
		*deadline
		below func(time.Time) error
	}{{&c.read, c.Conn.SetReadDeadline}, {&c.write, c.Conn.SetWriteDeadline}} {
		d := direction.deadline
		switch {
		case d.at.IsZero():
		case time.Until(d.at) <= 0:
			// A connection that cannot be told has been closed below us, and nobody waits on it.
			_ = direction.below(d.at)
			d.at, d.passed = time.Time{}, true
		case next.IsZero() || d.at.Before(next):
			next = d.at
		}
	}
	if !next.IsZero() {
		c.fireIn(time.Until(next), next)
	}
}

// Close implements net.Conn.
func (c *timed) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite says to the other end that nothing more will come: net/http does before it closes a connection with an
// answer on it that may not have been read, and a tunnel passes it on.
func (c *timed) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
