package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"taskrole/internal/fault"
)

const (
	// maxConns is how many connections are served at once; further ones wait in the kernel's queue. A start storm
	// of containers is some dozens.
	maxConns = 64
	// ioTimeout is for a peer to send its packet, and to take the answer. Both are there at once, or never.
	ioTimeout = 5 * time.Second
	// handleTimeout is for the handler. It is longer than any hook waits, so that the hook's word counts.
	handleTimeout = time.Minute
	// acceptPause is the wait after accept(2) failed, which it does when the process is out of descriptors.
	acceptPause = 100 * time.Millisecond
	// pageBytes is how much of a list goes into one packet.
	pageBytes = MaxPacket - 4<<10
)

// Option changes how Serve works. There are some for tests only.
type Option func(*server)

// WithPeers replaces the check of who may talk to the agent; uid is the peer's, by SO_PEERCRED. The default refuses
// everybody but root.
func WithPeers(check func(uid uint32) error) Option { return func(s *server) { s.peers = check } }

// WithTimeouts replaces the time a peer has to send or take a packet, and the time a handler has.
func WithTimeouts(io, handle time.Duration) Option {
	return func(s *server) { s.ioTimeout, s.handleTimeout = io, handle }
}

type server struct {
	handler                  Handler
	operator                 Operator // nil: people are not answered
	logger                   *slog.Logger
	peers                    func(uid uint32) error
	ioTimeout, handleTimeout time.Duration
}

// Serve answers requests on l until ctx ends; then it closes l, ends the handlers' contexts, waits for them and
// returns nil. It returns an error only if l was closed by somebody else. A handler that panics costs its caller the
// answer, and nothing else.
func Serve(ctx context.Context, l *net.UnixListener, h Handler, logger *slog.Logger, opts ...Option) error {
	s := &server{handler: h, logger: logger, peers: onlyRoot, ioTimeout: ioTimeout, handleTimeout: handleTimeout}
	for _, o := range opts {
		o(s)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.AcceptUnix()
		if err != nil {
			<-slots
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept control connection: %w", err)
			}
			logger.WarnContext(ctx, "control connection not accepted", slog.String("error", err.Error()))
			pause(ctx, acceptPause)
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, c)
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve is one connection.
func (s *server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()                                    //nolint:errcheck // the peer has its answer, or has gone
	_ = c.SetReadDeadline(time.Now().Add(s.ioTimeout)) // fails only on a closed connection, as the read then does
	// When the agent stops, a peer that sends nothing must not hold it up. Set after the deadline, so it stands.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := s.converse(ctx, c)
	if errors.Is(err, errClosed) {
		return // somebody looked whether we are alive
	}
	if err != nil {
		answer = reply{Fault: toWire(fault.As(err))}
	}
	_ = c.SetWriteDeadline(time.Now().Add(s.ioTimeout)) // fails only on a closed connection, as the write then does
	if err := write(c, encodeReply(answer)); err != nil {
		s.logger.WarnContext(ctx, "control answer not taken", slog.String("error", err.Error()))
	}
}

// converse reads the request and has it handled. What is refused before the handler is asked is logged here; the
// handler's own refusals are its own to log.
func (s *server) converse(ctx context.Context, c *net.UnixConn) (reply, error) {
	// The packet is taken before we look who sent it: if we closed with it in our queue, the kernel would tell the
	// peer ECONNRESET instead of our answer.
	packet, files, err := read(c)
	if err != nil {
		if !errors.Is(err, errClosed) {
			s.rejected(ctx, err)
		}
		return reply{}, err
	}
	cred, err := peer(c)
	if err == nil {
		err = s.peers(cred.Uid)
	}
	var r request
	if err == nil {
		r, err = decodeRequest(packet)
	}
	if err == nil && len(files) != r.fds() {
		err = invalid(nil, fmt.Sprintf("a control request with %d descriptors instead of %d", len(files), r.fds()))
	}
	if err == nil && r.Credentials != nil {
		err = ofTheHost(c, cred.Pid)
	}
	if err != nil {
		closeAll(files)
		s.rejected(ctx, err)
		return reply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.handleTimeout)
	defer cancel()
	defer watch(c, cancel)()
	return s.handle(ctx, r, files, Peer{UID: cred.Uid, PID: cred.Pid})
}

func (s *server) rejected(ctx context.Context, err error) {
	f := fault.As(err)
	s.logger.WarnContext(ctx, "control request refused", slog.String("code", string(f.Code)), slog.String("error", f.What))
}

// watch cancels when the peer goes away or says more than it may. The function it returns ends the watch and waits.
func watch(c *net.UnixConn, cancel context.CancelFunc) (stop func()) {
	_ = c.SetReadDeadline(time.Time{})
	var wg sync.WaitGroup
	stopping := make(chan struct{})
	wg.Go(func() {
		var b [1]byte
		_, _ = c.Read(b[:]) // descriptors sent now are closed by the kernel: there is no room for them
		select {
		case <-stopping:
		default:
			cancel()
		}
	})
	return func() {
		close(stopping)
		_ = c.SetReadDeadline(time.Unix(1, 0))
		wg.Wait()
	}
}

// handle calls the handler, and survives it. The files are the handler's.
func (s *server) handle(ctx context.Context, r request, files []*os.File, p Peer) (answer reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.logger.ErrorContext(ctx, "control handler panicked",
				slog.String("error", fmt.Sprint(v)+"\n"+string(debug.Stack())))
			answer = reply{}
			err = fault.New(fault.Internal, "the agent met a bug while it handled this request",
				"look at the agent's log and report it")
		}
	}()
	if r.Attach != nil {
		a, err := s.handler.Attach(ctx, *r.Attach, files[0], files[1])
		return reply{Attach: &a}, err
	}
	if r.List == nil && r.Refusals == nil {
		return s.operate(ctx, r, p)
	}
	all, err := s.handler.List(ctx)
	if err != nil {
		return reply{}, err
	}
	if r.Refusals != nil {
		return reply{Refusals: &refusalsPage{Refusals: fitting(all.Refusals)}}, nil
	}
	containers, more := page(all.Containers, func(a Attached) string { return string(a.ID) }, string(r.List.After))
	return reply{List: &listPage{Containers: containers, More: more}}, nil
}

// fitting is the beginning of the list that fits into a packet.
func fitting(all []Refusal) []Refusal {
	part := []Refusal{}
	size := 0
	for _, r := range all[:min(len(all), MaxRefusals)] {
		b, err := json.Marshal(r)
		if size += len(b) + 1; err != nil || size > pageBytes {
			break
		}
		part = append(part, r)
	}
	return part
}

// page cuts what follows after out of the list, in the order of its keys and as much as fits into a packet.
func page[T any](all []T, key func(T) string, after string) (part []T, more bool) {
	part = []T{}
	size := 0
	for _, a := range slices.SortedFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(key(a), key(b)) }) {
		if key(a) <= after {
			continue
		}
		b, err := json.Marshal(a)
		if err != nil {
			continue // its time is out of RFC 3339's range: there is no such container
		}
		if len(b) > pageBytes {
			continue // nothing the agent holds is that long; one such entry must not hide the others
		}
		size += len(b) + 1
		if size > pageBytes {
			return part, true
		}
		part = append(part, a)
	}
	return part, false
}
