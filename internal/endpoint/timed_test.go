package endpoint_test

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/endpoint"
	"taskrole/internal/secret"
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

// silent takes an answer and keeps nothing of it.
type silent struct{ header http.Header }

func (s silent) Header() http.Header         { return s.header }
func (s silent) Write(b []byte) (int, error) { return len(b), nil }
func (s silent) WriteHeader(int)             {}

func TestAnAnswerFromMemoryMakesNoGarbage(t *testing.T) {
	c := theCredentials()
	h := endpoint.New(endpoint.Options{Role: "app", RoleARN: theRole, Credentials: func() (secret.Credentials, error) { return c, nil }})
	local := net.TCPAddrFromAddrPort(address.ECS)
	r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/v2/credentials/app"}, Host: "169.254.170.2"}).
		WithContext(contextWithLocal(t.Context(), local))
	w := silent{http.Header{}}
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }); n > 0 {
		t.Errorf("%v allocations for an answer", n)
	}
	if w.header.Get("Content-Length") == "" {
		t.Error("there was no answer")
	}
}

// Many requests of every kind on one connection, over a rotation and pauses in which deadlines pass that no longer hold.
func TestR16OneConnectionServesManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := theCredentials()
		var mu sync.Mutex // guards c
		o := endpoint.Options{Role: "app", RoleARN: theRole, Credentials: func() (secret.Credentials, error) {
			mu.Lock()
			defer mu.Unlock()
			return c, nil
		}}
		p := &pipes{t: t, conns: make(chan net.Conn), local: net.TCPAddrFromAddrPort(address.ECS)}
		stop := serve(p, endpoint.New(o))
		conn := p.dial()
		in := bufio.NewReader(conn)
		for i := range 200 {
			method := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodGet}[i%4]
			if i == 100 {
				mu.Lock()
				c.AccessKeyID, c.Expires = "ASIANEXT", time.Now().Add(24*time.Hour)
				mu.Unlock()
			}
			body := "\r\n"
			if method == http.MethodPost {
				body = "Content-Length: 3\r\n\r\nabc"
			}
			_, _ = io.WriteString(conn, method+" /v2/credentials/app HTTP/1.1\r\nHost: 169.254.170.2\r\n"+body)
			r, err := http.ReadResponse(in, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			b, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			want := "ASIAEXAMPLE"
			if i >= 100 {
				want = "ASIANEXT"
			}
			if err != nil || r.Close || method == http.MethodGet && !strings.Contains(string(b), want) {
				t.Fatalf("request %d, %s: %d %s, %v", i, method, r.StatusCode, b, err)
			}
			time.Sleep([]time.Duration{0, time.Second, 11 * time.Second, 59 * time.Second}[i%4])
		}
		_ = conn.Close()
		close(p.conns)
		stop()
		time.Sleep(time.Second) // net/http does after CloseWrite
	})
}
