// Package imds is the laboratory's EC2 instance metadata service, versions 1 and 2.
//
// It does what the real one does to whoever asks from inside a container: tokens for a limited time, HttpTokens
// optional or required, and a hop limit on the answer that carries a token. The hop limit is a real time-to-live on
// real packets, so it shows its effect only where the service sits behind a routed hop, in a network namespace of
// its own; on the machine that asks, or one bridge away from it, packets arrive whatever their time-to-live is.
//
// It refuses to proxy: what is not in its own short tree is not found. It holds no addresses and opens no listener;
// that it is never reachable as the metadata service of a real machine is up to the namespace it is served in.
package imds

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Headers of version 2.
const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
)

const (
	maxTTL      = 21600 // seconds: six hours
	defaultHops = 64    // of every packet but the ones that carry a token
	timeFormat  = "2006-01-02T15:04:05Z"
)

// Credentials are what the instance role's document holds.
type Credentials struct {
	AccessKeyID, SecretAccessKey, Token string
	Expires                             time.Time
}

// Options of a Server. An empty RoleName is an instance without a role.
type Options struct {
	AccountID, Region, InstanceID string
	PrivateIP                     string
	RoleName                      string
	// Credentials gives the role's. Its error's text is shown to the client, in a document without keys.
	Credentials    func() (Credentials, error)
	HopLimit       int  // 1 to 64; 0 is 1, EC2's default
	TokensRequired bool // HttpTokens=required: no version 1
	Now            func() time.Time
	Logger         *slog.Logger
}

// Server is the service's http.Handler. Its settings may be changed while it serves.
type Server struct {
	o        Options
	tokens   *tokens
	tree     map[string]string
	hops     atomic.Int32
	required atomic.Bool
	disabled atomic.Bool
	detached atomic.Bool
}

// New makes the service. HTTPServer is what makes the hop limit work.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.HopLimit == 0 {
		o.HopLimit = 1
	}
	tree, err := newTree(o)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, tokens: newTokens(o.Now), tree: tree}
	s.required.Store(o.TokensRequired)
	return s, s.SetHopLimit(o.HopLimit)
}

// SetHopLimit sets HttpPutResponseHopLimit, from the next request on.
func (s *Server) SetHopLimit(n int) error {
	if n < 1 || n > defaultHops {
		return fmt.Errorf("hop limit %d: must be 1 to %d", n, defaultHops)
	}
	s.hops.Store(int32(n))
	return nil
}

// HopLimit is the one in force.
func (s *Server) HopLimit() int { return int(s.hops.Load()) }

// SetTokensRequired sets HttpTokens.
func (s *Server) SetTokensRequired(required bool) { s.required.Store(required) }

// TokensRequired says whether version 1 is off.
func (s *Server) TokensRequired() bool { return s.required.Load() }

// SetEnabled sets HttpEndpoint; when it is off everything is answered with 403.
func (s *Server) SetEnabled(enabled bool) { s.disabled.Store(!enabled) }

// Enabled says whether the endpoint is on.
func (s *Server) Enabled() bool { return !s.disabled.Load() }

// SetRole attaches the instance profile, or takes it away.
func (s *Server) SetRole(attached bool) { s.detached.Store(!attached) }

// role is the name of the instance's role, or "".
func (s *Server) role() string {
	if s.detached.Load() {
		return ""
	}
	return s.o.RoleName
}

// connKey is where HTTPServer leaves a request's connection.
type connKey struct{}

// HTTPServer returns a server for h, which is s or something around it. The caller serves and closes it.
func (s *Server) HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws")
	w.Header().Set("Date", s.o.Now().UTC().Format(http.TimeFormat))
	s.setHops(r, defaultHops) // an earlier request on this connection may have lowered it
	path := strings.Trim(r.URL.Path, "/")
	switch {
	case s.disabled.Load():
		WriteError(w, http.StatusForbidden)
	case path == "latest/api/token":
		s.putToken(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		WriteError(w, http.StatusMethodNotAllowed)
	case !s.authorize(w, r): // before any look at the path: clients tell version 1 from 2 by a bad token on "/"
		WriteError(w, http.StatusUnauthorized)
	default:
		s.get(w, path)
	}
}

func (s *Server) putToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "OPTIONS, PUT")
		WriteError(w, http.StatusMethodNotAllowed)
		return
	}
	s.setHops(r, s.HopLimit())
	if len(r.Header.Values("X-Forwarded-For")) > 0 { // a proxy that was tricked into asking
		WriteError(w, http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		WriteError(w, http.StatusBadRequest)
		return
	}
	w.Header().Set(ttlHeader, strconv.Itoa(ttl)) // Go's SDK and Rust's need it
	write(w, s.tokens.issue(time.Duration(ttl)*time.Second))
}

// authorize refuses a token that is there and wrong even where none is needed.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) bool {
	sent := r.Header.Values(tokenHeader)
	if len(sent) == 0 {
		return !s.required.Load()
	}
	left, ok := s.tokens.left(sent[0])
	if ok {
		w.Header().Set(ttlHeader, strconv.Itoa(int(left/time.Second)))
	}
	return ok
}

func (s *Server) setHops(r *http.Request, n int) {
	c, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return // under a test server that is not ours
	}
	if err := setTTL(c, n); err != nil {
		s.o.Logger.WarnContext(r.Context(), "hop limit could not be set", slog.Any("error", err))
	}
}

func write(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write([]byte(text)) // a client that has gone away needs nothing
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		WriteError(w, http.StatusInternalServerError)
		return
	}
	write(w, string(b))
}

// WriteError answers with the service's page for an HTTP status.
func WriteError(w http.ResponseWriter, status int) {
	encoding := "iso-8859-1"
	if status == http.StatusBadRequest || status == http.StatusUnauthorized {
		encoding = "UTF-8"
	}
	title := fmt.Sprintf("%d - %s", status, http.StatusText(status))
	page := fmt.Sprintf(`<?xml version="1.0" encoding="%s"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>%[2]s</title>
 </head>
 <body>
  <h1>%[2]s</h1>
 </body>
</html>
`, encoding, title)
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(page))
}
