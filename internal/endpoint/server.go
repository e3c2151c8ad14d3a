package endpoint

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"taskrole/internal/fault"
)

// The limits of a server. A client on the same host has sent its request within milliseconds, so they are generous;
// without them a slow client would hold memory and a goroutine of the agent, which serves other containers too.
const (
	headerLimit  = 5 * time.Second
	requestLimit = 10 * time.Second // whole request, whole answer; a proxy handler sets its own
	idleLimit    = 60 * time.Second
	maxHeader    = 16 << 10
)

// refused is what a net.Conn may implement to say that its client must not be served.
type refused interface{ Refused() *fault.Error }

// Server answers the connections of any number of containers, each with the handler it is handed over with: one server,
// because one for each container would be most of what a container costs.
type Server struct {
	http   *http.Server
	handed handed
	done   chan struct{}
}

// NewServer starts a server with every limit set, for HTTP/1.1 only; Close stops it.
//
// The read and write deadlines end with the request, except for a connection that is hijacked: then net/http lifts
// them, so that a proxy's tunnel lives on.
func NewServer(l *slog.Logger) *Server {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &Server{
		handed: handed{conns: make(chan net.Conn), closed: make(chan struct{})},
		done:   make(chan struct{}),
		http: &http.Server{
			Handler:           http.HandlerFunc(dispatch),
			ReadHeaderTimeout: headerLimit,
			ReadTimeout:       requestLimit,
			WriteTimeout:      requestLimit,
			IdleTimeout:       idleLimit,
			MaxHeaderBytes:    maxHeader,
			Protocols:         protocols,
			ErrorLog:          slog.NewLogLogger(l.Handler(), slog.LevelWarn),
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, connKey{}, c)
			},
			// OPTIONS * is answered by the handler like everything else, not by net/http with a 200.
			DisableGeneralOptionsHandler: true,
		},
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(&s.handed) // ends with Close
	}()
	return s
}

// Handle answers the requests on c with h, and closes c in the end. If c has a method Refused() *fault.Error and that
// returns one, every request is answered with this fault, in the form of the dialect, and h, which may be nil then, is
// not called. The method is called once a request and must not block.
func (s *Server) Handle(c net.Conn, h http.Handler) {
	a := &assigned{timed: timed{Conn: c}, handler: h, dialect: dialectOf(c.LocalAddr())}
	a.refused, _ = c.(refused)
	select {
	case s.handed.conns <- a:
	case <-s.handed.closed:
		_ = c.Close() // the agent stops
	}
}

// Close ends every connection but the hijacked ones, and waits until no further one can be handed over.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// assigned is a connection with the handler of its container.
type assigned struct {
	timed

	handler http.Handler
	dialect dialect
	refused refused // nil: it never is
}

type connKey struct{}

// dispatch sends a request to the handler of its connection.
func dispatch(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*assigned)
	if !ok { // the server accepts nothing else
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var f *fault.Error
	if c.refused != nil {
		f = c.refused.Refused()
	}
	switch {
	case f != nil && c.dialect == dialectIMDS:
		writeHTML(w, r, f)
	case f != nil:
		writeJSON(w, r, f)
	default:
		if h, ok := c.handler.(*handler); ok {
			h.serve(w, r, c.dialect) // without looking at the address again
			return
		}
		c.handler.ServeHTTP(w, r)
	}
}

// handed is a listener whose connections come from Handle.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	err := errors.New("the server is closed already")
	h.once.Do(func() {
		close(h.closed)
		err = nil
	})
	return err
}

// Addr implements net.Listener: it is at no address.
func (h *handed) Addr() net.Addr { return &net.UnixAddr{Name: "handed over"} }
