package endpoint

import (
	"context"
	"log/slog"
	"net"
	"net/http"
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

type connKey struct{}

// NewServer returns a server with every limit set, for HTTP/1.1 only. If a net.Conn the server accepted has a method
// Refused() *fault.Error and that returns one, every request on the connection is answered with this fault, in the
// form of the dialect, and h is not called. The method is called once a request and must not block.
//
// The read and write deadlines end with the request, except for a connection that is hijacked: then net/http lifts
// them, so that a proxy's tunnel lives on.
func NewServer(h http.Handler, l *slog.Logger) *http.Server {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           gate(h),
		ReadHeaderTimeout: headerLimit,
		ReadTimeout:       requestLimit,
		WriteTimeout:      requestLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    maxHeader,
		Protocols:         protocols,
		ErrorLog:          slog.NewLogLogger(l.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if r, ok := c.(refused); ok {
				ctx = context.WithValue(ctx, connKey{}, r)
			}
			return ctx
		},
		// OPTIONS * is answered by h like everything else, not by net/http with a 200.
		DisableGeneralOptionsHandler: true,
	}
}

// gate answers requests on refused connections.
func gate(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(refused)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		switch f := c.Refused(); {
		case f == nil:
			h.ServeHTTP(w, r)
		case dialectOf(r.Context()) == dialectIMDS:
			writeHTML(w, r, f)
		default:
			writeJSON(w, r, f)
		}
	})
}
