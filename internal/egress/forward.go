package egress

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"taskrole/internal/fault"
)

const (
	answerLimit = 2 * time.Minute // until the first byte of an answer
	reuseLimit  = 30 * time.Second
	maxAnswer   = 64 << 10 // header of an answer
)

// newTransport is net/http's own client: requests are parsed and written anew, so what the container sends cannot smuggle
// a second request into a connection. It follows no redirect and no proxy of the host.
func (p *Proxy) newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			t, err := parseTarget(address, 0)
			if err != nil {
				return nil, fault.Wrap(err, fault.EgressDenied, err.Error(), "")
			}
			if f := p.allowed(t, true); f != nil { // once more, where it counts
				return nil, f
			}
			return p.dial(ctx, t)
		},
		DisableCompression:     true, // bodies are signed
		MaxIdleConnsPerHost:    8,    //nolint:mnd // more is not kept
		IdleConnTimeout:        reuseLimit,
		ResponseHeaderTimeout:  answerLimit,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxAnswer,
	}
}

// newReverse is what forwards. httputil.ReverseProxy takes the hop-by-hop headers off, Proxy-Authorization among them.
func (p *Proxy) newReverse() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     p.transport,
		FlushInterval: -1, // answers stream
		ErrorLog:      slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			// A signature covers these: they go as they came.
			r.Out.URL.RawQuery, r.Out.URL.ForceQuery = r.In.URL.RawQuery, r.In.URL.ForceQuery
			r.Out.Host = r.In.Host
			r.Out.Header.Del("Upgrade") // a protocol we do not know would be a tunnel
			r.Out.Header.Del("Connection")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			f := fault.As(err)
			if f.Code == fault.Internal {
				f = fault.Wrap(err, fault.EgressUnreachable, r.URL.Host+" may be reached, but the request failed: "+reason(err), "try again")
			}
			p.refuse(w, r, f)
		},
	}
}

// forward answers a request with an absolute URL. It returns a fault if the caller still has to answer.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) *fault.Error {
	t, f := p.plainTarget(r)
	if f != nil {
		return f
	}
	if f := p.allowed(t, true); f != nil {
		return f
	}
	if f := p.begin(); f != nil {
		return f
	}
	defer p.end()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)() //nolint:contextcheck // the proxy's end ends the request too
	watch := newSilence(http.NewResponseController(w), p.idle, cancel)
	defer watch.stop()
	out := r.WithContext(ctx)
	out.Header = r.Header.Clone()
	out.Header.Del("Upgrade") // before ReverseProxy sees it and asks for a switch of protocols
	out.Body = &watchedBody{ReadCloser: r.Body, watch: watch}
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	p.reverse.ServeHTTP(&watchedWriter{ResponseWriter: w, watch: watch}, out)
	return nil
}

// plainTarget reads the destination out of the request line, and refuses what net/http's URL parser sees otherwise.
func (p *Proxy) plainTarget(r *http.Request) (target, *fault.Error) {
	const httpPort, hint = 80, "a plain request takes http://host[:port]/path"
	scheme, rest, _ := strings.Cut(r.RequestURI, "://")
	authority := rest
	if i := strings.IndexAny(rest, "/?#\\"); i >= 0 {
		authority = rest[:i]
	}
	if !strings.EqualFold(scheme, "http") {
		return target{}, fault.New(fault.EgressDenied, "the proxy forwards plain requests by http only, not "+cut(scheme), "for https use CONNECT")
	}
	if r.URL.User != nil || r.URL.Opaque != "" || r.URL.Host != authority || r.Host != authority {
		return target{}, fault.New(fault.EgressDenied, cut(authority)+" is not a plain destination", hint)
	}
	t, err := parseTarget(authority, httpPort)
	if err != nil {
		return target{}, fault.Wrap(err, fault.EgressDenied, err.Error(), hint)
	}
	return t, nil
}

// silence ends a request in which nothing has moved for a while. It takes the place of the server's deadlines, which a
// large upload or download would not keep.
type silence struct {
	rc    *http.ResponseController
	after time.Duration

	mu    sync.Mutex // guards what follows, and keeps the end of the handler from happening meanwhile
	over  bool
	timer *time.Timer
}

func newSilence(rc *http.ResponseController, after time.Duration, cancel context.CancelFunc) *silence {
	s := &silence{rc: rc, after: after}
	s.deadline(time.Time{})
	s.timer = time.AfterFunc(after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.over {
			s.over = true
			cancel()
			s.deadline(time.Unix(1, 0)) // in the past: whoever reads or writes now comes back
		}
	})
	return s
}

// deadline sets both of the server's connection. A ResponseWriter without any is one of a test.
func (s *silence) deadline(t time.Time) {
	_ = s.rc.SetReadDeadline(t)
	_ = s.rc.SetWriteDeadline(t)
}

// broken says that something moved. It may come late, from a transport that is still reading a body: then it must not
// start the clock of a connection that already carries the next request.
func (s *silence) broken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.timer.Reset(s.after)
	}
}

// stop gives the connection back to the server, with little time for what is left of the request.
func (s *silence) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		s.timer.Stop()
		s.deadline(time.Now().Add(writeLimit))
	}
}

type watchedBody struct {
	io.ReadCloser
	watch *silence
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.broken()
	return b.ReadCloser.Read(p)
}

type watchedWriter struct {
	http.ResponseWriter
	watch *silence
}

// Write implements http.ResponseWriter.
func (w *watchedWriter) Write(p []byte) (int, error) {
	w.watch.broken()
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
