package hostrole

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"taskrole/internal/broker"
	"taskrole/internal/companion"
	"taskrole/internal/endpoint"
	"taskrole/internal/secret"
)

// tokenSize makes guessing hopeless, at whatever rate: 256 bits.
const tokenSize = 32

// connections is how many clients are served at once. Whoever on the host connects takes a place, and gives it back
// within seconds if he has nothing to say; further ones wait in the kernel's queue.
const connections = 64

// ServeOptions say what to serve.
type ServeOptions struct {
	Role       string
	Socket     string // of the agent
	ConfigPath string // read only where no agent answers
	Logger     *slog.Logger
}

// Serve is the companion's work. It returns when the command has ended. Whatever is wrong before the endpoint is there
// is told to the process that waits for it.
func Serve(ctx context.Context, o ServeOptions) error {
	seat, err := companion.Attend()
	if err != nil {
		return err
	}
	// Who stops a service sends SIGTERM to the command and to us: the command may need its role to end in order. With it
	// we end anyway.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ctx, stop, err := seat.Watch(ctx)
	if err != nil {
		return seat.Failed(err)
	}
	defer stop()
	src, a, err := open(ctx, o)
	if err != nil {
		return seat.Failed(err)
	}
	b := broker.New(broker.Options{Source: src, Logger: o.Logger})
	defer b.Close()
	lease, err := b.Acquire(ctx, src.grant)
	if err != nil {
		return seat.Failed(err)
	}
	defer lease.Release()
	c, err := lease.Credentials()
	if err != nil {
		return seat.Failed(err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return seat.Failed(fmt.Errorf("listen on the loopback address: %w", err))
	}
	token := newToken()
	a.URI, a.Token, a.Expires = "http://"+l.Addr().String()+endpoint.PrivatePath, token.Reveal(), c.Expires
	srv := endpoint.NewServer(o.Logger)
	h := endpoint.NewPrivate(endpoint.PrivateOptions{Authorization: token, Credentials: lease.Credentials})
	end := func() { _ = errors.Join(l.Close(), srv.Close()) } // nobody is left to be told
	defer end()
	if err := seat.Ready(a); err != nil {
		return err
	}
	context.AfterFunc(ctx, end)
	return accept(ctx, limit(l, connections), func(c net.Conn) { srv.Handle(c, h) }, o.Logger)
}

// acceptPause is the wait after accept(2) failed, which it does when the process is out of descriptors.
const acceptPause = 100 * time.Millisecond

// accept hands over connections until l is closed.
func accept(ctx context.Context, l net.Listener, handle func(net.Conn), log *slog.Logger) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			handle(c)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			log.WarnContext(ctx, "connection not accepted", slog.String("error", err.Error()))
			t := time.NewTimer(acceptPause)
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
	}
}

func newToken() secret.Value {
	b := make([]byte, tokenSize)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	return secret.New(base64.RawURLEncoding.EncodeToString(b))
}

// limited is a listener that lets in so many at a time.
type limited struct {
	net.Listener
	slots chan struct{}
}

func limit(l net.Listener, most int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, most)}
}

// Accept waits for a free place first. It gets one: the server closes every connection in time.
func (l *limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.slots })}, nil
}

// placed is a connection that gives its place back.
type placed struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *placed) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
