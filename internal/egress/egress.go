// Package egress is the way out for a container that has none: a forward proxy that leads to listed AWS endpoints and
// nowhere else.
//
// It runs in the agent, outside the container's network namespace, and is reached at a loopback address inside it. So
// everything it connects to, it connects to with the host's rights; that is why it refuses everything that is not
// listed, resolves names itself, and looks at the address before it dials exactly that one. Inside a tunnel is TLS that
// it neither opens nor could; it reaches a service, not only the container's own buckets in it: what a container may do
// there is its role's policy. Plain requests go to listed http:// endpoints only.
package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"taskrole/internal/fault"
)

// Options say where a Proxy leads. The zero value leads nowhere.
type Options struct {
	Region    string   // of the services; required if Services is not empty
	Partition string   // aws, aws-cn or aws-us-gov; "" means the region's
	Services  []string // endpoint prefixes as in host names: s3, sts, dynamodb, logs, …
	// Endpoints are further targets: https://host[:port], reached by CONNECT, and http://host[:port], reached by plain
	// requests. A host that is an address may be a loopback one: the host's, not the container's.
	Endpoints []string
	Logger    *slog.Logger // with the container's attributes; nil: nothing is logged
	// Lookup resolves a host name; nil means the host's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial connects to an address that has been checked; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long a connection may be silent in both directions; 0 means 5 minutes.
	Idle time.Duration
}

const (
	defaultIdle = 5 * time.Minute
	// maxOpen bounds what one container can take of the agent: descriptors, and 64 KiB of buffers a connection.
	maxOpen = 64
	// A flood of refused requests must not fill the host's journal.
	logFirst, logEvery = 5, time.Minute
)

// Proxy is the forward proxy of one container. It is safe for concurrent use.
type Proxy struct {
	services  services
	endpoints map[endpoint]bool
	log       *slog.Logger
	denials   rate.Sometimes
	lookup    func(ctx context.Context, host string) ([]netip.Addr, error)
	dialer    func(ctx context.Context, network, address string) (net.Conn, error)
	idle      time.Duration
	transport *http.Transport
	reverse   *httputil.ReverseProxy
	slots     chan struct{}

	ctx    context.Context //nolint:containedctx // the life of the proxy, not of a request
	cancel context.CancelFunc

	mu      sync.Mutex // guards closed, and adding to running
	closed  bool
	running sync.WaitGroup
}

// New makes a Proxy; whoever made it calls Close. It fails, with a fault of code config-invalid, if a service, the
// region or an endpoint cannot be understood.
func New(o Options) (*Proxy, error) {
	s, err := newServices(o)
	if err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "egress: "+err.Error(), "correct egress in the role's configuration")
	}
	p := &Proxy{
		services: s, endpoints: map[endpoint]bool{}, log: o.Logger, lookup: o.Lookup, dialer: o.Dial, idle: o.Idle,
		slots: make(chan struct{}, maxOpen), denials: rate.Sometimes{First: logFirst, Interval: logEvery},
	}
	for _, text := range o.Endpoints {
		e, err := parseEndpoint(text)
		if err != nil {
			return nil, fault.Wrap(err, fault.ConfigInvalid, "egress: "+err.Error(), "correct egress in the role's configuration")
		}
		p.endpoints[e] = true
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.lookup == nil {
		p.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if p.dialer == nil {
		p.dialer = new(net.Dialer).DialContext
	}
	if p.idle <= 0 {
		p.idle = defaultIdle
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.transport = p.newTransport()
	p.reverse = p.newReverse()
	return p, nil
}

// Close ends every tunnel and request and waits for them. Later requests are refused.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	p.transport.CloseIdleConnections()
}

// begin counts one connection in, or says why not. The caller calls end.
func (p *Proxy) begin() *fault.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fault.New(fault.EgressUnreachable, "the way out of this container is being closed", "")
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return fault.New(fault.EgressUnreachable,
			fmt.Sprintf("this container has %d connections through the proxy open, which is all it may have", maxOpen),
			"close some, or let the client use fewer at a time")
	}
	p.running.Add(1)
	return nil
}

func (p *Proxy) end() {
	<-p.slots
	p.running.Done()
}

// ServeHTTP implements http.Handler: CONNECT host:port opens a tunnel, a request with an absolute http:// URL is
// forwarded, everything else is refused.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var f *fault.Error
	switch {
	case r.Method == http.MethodConnect:
		f = p.connect(w, r)
	case r.URL.Scheme != "":
		f = p.forward(w, r)
	default:
		f = fault.New(fault.EgressDenied, "this is a forward proxy, and the request names no destination",
			"use it through HTTPS_PROXY, not as a server")
	}
	if f == nil {
		return
	}
	report := false
	p.denials.Do(func() { report = true })
	if report {
		p.log.LogAttrs(r.Context(), slog.LevelWarn, "egress refused", slog.String("code", string(f.Code)), slog.String("error", f.What))
	}
	p.refuse(w, r, f)
}

// allowed decides. plain says that the request is an absolute http:// one, not CONNECT.
func (p *Proxy) allowed(t target, plain bool) *fault.Error {
	const httpsPort = 443
	switch {
	case p.endpoints[endpoint{t, plain}]:
		return nil
	case !plain && t.port == httpsPort && !t.addr.IsValid() && p.services.has(t.host):
		return nil
	case plain && p.endpoints[endpoint{t, false}], plain && !t.addr.IsValid() && p.services.has(t.host):
		return fault.New(fault.EgressDenied, fmt.Sprintf("%s is reached by HTTPS only", t), "use an https:// URL")
	case !t.addr.IsValid() && p.services.has(t.host):
		return fault.New(fault.EgressDenied, fmt.Sprintf("%s is not port 443 of an AWS endpoint", t), "use port 443")
	}
	return fault.New(fault.EgressDenied, fmt.Sprintf("%s is not among the endpoints this container's role may reach", t),
		"add its service or the endpoint to egress in the role's configuration"+p.services.hint(t.host))
}
