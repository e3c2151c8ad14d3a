package endpoint_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/endpoint"
)

// setting is a deadline that is set: at is when, since the beginning, and in is how long until it passes.
type setting struct {
	at, in      time.Duration
	never       bool
	read, write bool
}

// settings are random ones, such that none passes at the moment when another is set.
func settings(r *rand.Rand) []setting {
	var all []setting
	at := time.Duration(0)
	for range 12 {
		at += time.Duration(r.IntN(4000)) * 2 * time.Millisecond
		s := setting{at: at, in: time.Duration(r.IntN(6000)-500)*2*time.Millisecond + time.Millisecond, never: r.IntN(4) == 0}
		s.read = r.IntN(2) == 0
		s.write = !s.read || r.IntN(3) == 0
		all = append(all, s)
	}
	return all
}

// passings are the moments at which Read or Write on c was cut off while the settings were made.
func passings(t *testing.T, c, other net.Conn, all []setting) (read, written []time.Duration) {
	t.Helper()
	begin := time.Now()
	var wg sync.WaitGroup
	note := func(list *[]time.Duration, do func([]byte) (int, error)) {
		for {
			_, err := do([]byte{0})
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			*list = append(*list, time.Since(begin))
			time.Sleep(time.Second + 137*time.Microsecond) // at no moment of the settings
		}
	}
	wg.Go(func() { note(&read, c.Read) })
	wg.Go(func() { note(&written, c.Write) })
	for _, s := range all {
		time.Sleep(time.Until(begin.Add(s.at)))
		when := time.Now().Add(s.in)
		if s.never {
			when = time.Time{}
		}
		var err error
		switch {
		case s.read && s.write:
			err = c.SetDeadline(when)
		case s.read:
			err = c.SetReadDeadline(when)
		default:
			err = c.SetWriteDeadline(when)
		}
		if err != nil {
			t.Error(err)
		}
	}
	time.Sleep(20 * time.Second)
	_ = c.SetDeadline(time.Time{})
	time.Sleep(2 * time.Second)
	_ = c.Close()
	_ = other.Close()
	wg.Wait()
	return read, written
}

// net.Pipe does what net.Conn asks for. Whatever is set when, we cut off at the same moments.
func TestDeadlinesPassExactlyWhenThoseOfThePlainConnectionWould(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			all := settings(rand.New(rand.NewPCG(seed, 0)))
			plain, other := net.Pipe()
			wantRead, wantWritten := passings(t, plain, other, all)
			inner, other := net.Pipe()
			read, written := passings(t, endpoint.Timed(inner), other, all)
			if !slices.Equal(read, wantRead) || !slices.Equal(written, wantWritten) {
				t.Fatalf("seed %d: cut off reading at %v and writing at %v, want %v and %v", seed, read, written, wantRead, wantWritten)
			}
		})
	}
}

// counted is a connection that counts how often a deadline is set.
type counted struct {
	net.Conn
	sets atomic.Int64
}

func (c *counted) SetReadDeadline(t time.Time) error {
	c.sets.Add(1)
	return c.Conn.SetReadDeadline(t)
}

func (c *counted) SetWriteDeadline(t time.Time) error {
	c.sets.Add(1)
	return c.Conn.SetWriteDeadline(t)
}

func TestDeadlinesThatDoNotPassAreNotSetBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		below := &counted{Conn: ours}
		c := endpoint.Timed(below)
		defer c.Close()
		for range 1000 { // as net/http does, but for what it interrupts
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			time.Sleep(100 * time.Millisecond)
			_ = c.SetWriteDeadline(time.Time{})
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			_ = c.SetReadDeadline(time.Time{})
		}
		if n := below.sets.Load(); n != 0 {
			t.Errorf("%d deadlines were set below", n)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if n := below.sets.Load(); n != 1 {
			t.Errorf("%d deadlines were set below, want the one that passed", n)
		}
	})
}

func TestAClosedConnectionKeepsNoTimer(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	below := &counted{Conn: ours}
	c := endpoint.Timed(below)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Hour)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a deadline of a closed connection: %v", err)
	}
	if endpoint.StopTimer(c) {
		t.Error("the timer was still running")
	}
}

// Whoever interrupts, closes and moves deadlines at once finds no race and no reader that stays for ever.
func TestDeadlinesFromManySidesAtOnce(t *testing.T) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c := endpoint.Timed(accepted)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := range 200 {
					_ = c.SetReadDeadline(time.Now().Add(time.Duration(i%7-1) * 100 * time.Microsecond))
					_ = c.SetWriteDeadline(time.Now().Add(time.Duration(i%5) * 100 * time.Microsecond))
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			})
		}
		wg.Go(func() {
			for range 50 {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("read what nobody sent")
				}
			}
		})
		wg.Wait()
		wg.Go(func() { _ = c.Close() })
		wg.Go(func() { _ = c.SetDeadline(time.Now().Add(time.Millisecond)) })
		wg.Wait()
		_, _ = client.Close(), l.Close()
	}
}

// Half of a tunnel may end before the other; and net/http closes in this way what it has answered, so that the answer is
// not lost with the connection.
func TestCloseWriteReachesTheConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := endpoint.Timed(accepted)
	defer c.Close()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(client); err != nil || len(b) > 0 {
		t.Errorf("the client read %q, %v, want the end", b, err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("the other way: %d bytes, %v", n, err)
	}
}
