// Package endpoint answers one container's requests for credentials, in the dialects SDKs speak: the container
// credentials endpoint of ECS, that of EKS Pod Identity, and the EC2 instance metadata service, versions 1 and 2.
//
// A handler belongs to one container and has nothing of another one, so no mistake in it can serve the wrong role. It
// answers from memory, at once, and never leads to the host's own metadata service: what it does not know is not
// found. Which process is at the other end of a connection is not decided here; a connection that was refused by
// whoever accepted it says so (see NewServer), and is told why in its own dialect.
//
// Paths are routed by hand: http.ServeMux answers untidy paths with redirects, and SDKs do not follow them.
package endpoint

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/arn"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/instance"
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
	Region    string   // or empty: then it is that of the instance
	IMDS      Mode
	// Instance returns what IMDS tells of the instance, from memory, at once. It must be the same pointer as long as it
	// says the same. nil: nothing is known.
	Instance func() *instance.Facts
	// Credentials returns the current ones from memory, at once, or a *fault.Error. A broker.Lease has it.
	Credentials func() (secret.Credentials, error)
	// Authorization is the token that a request for credentials must carry at every address but those of IMDS, which has
	// tokens of its own. Empty: none is needed, and one that comes is not looked at.
	Authorization secret.Value
	// Task has the ECS task metadata. nil: there are none.
	Task Metadata
	// Visits notes who takes credentials. nil: nobody wants to know.
	Visits *Visits
	Tokens *TokenKey    // nil: a random one, so tokens do not outlive the handler
	Proxy  http.Handler // the egress proxy, or nil
	Logger *slog.Logger // nil: nothing is logged
}

// Metadata are documents beside the credentials.
type Metadata interface {
	// Has says whether a path, tidied, is one of theirs.
	Has(path string) bool
	// Document returns JSON or a *fault.Error. It may wait for the container's engine.
	Document(ctx context.Context, path string) ([]byte, error)
}

// handler is one container's endpoint. It is one object, and a small one: a host may have very many containers that
// never ask.
type handler struct {
	subject

	mode          Mode
	authorization secret.Value
	tokens        *TokenKey
	instance      func() *instance.Facts
	bodies        bodies
	grown         atomic.Pointer[grown] // the metadata of the facts last seen
	task          Metadata              // may be nil
	proxy         http.Handler          // may be nil
	visits        *Visits               // may be nil
	log           *slog.Logger
}

// subject is whom an endpoint is for.
type subject struct {
	id     container.ID
	role   string
	arn    arn.Role
	region string
}

// New returns the handler of one container. It tells the dialects apart by the local address of the connection
// (http.LocalAddrContextKey), which the client cannot choose a false one of, and never by the Host header.
func New(o Options) http.Handler {
	if o.Tokens == nil {
		o.Tokens = NewTokenKey()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Instance == nil {
		nothing := &instance.Facts{}
		o.Instance = func() *instance.Facts { return nothing }
	}
	return &handler{
		subject: subject{id: o.Container.ID, role: o.Role, arn: o.RoleARN, region: o.Region},
		mode:    o.IMDS, authorization: o.Authorization, tokens: o.Tokens, instance: o.Instance,
		bodies: bodies{credentials: o.Credentials}, task: o.Task, proxy: o.Proxy, visits: o.Visits, log: o.Logger,
	}
}

// all are the destinations of a container with a proxy, which comes last.
var all = []netip.AddrPort{
	address.ECS, address.PodIdentity, address.PodIdentity6, address.FullURI, address.IMDS, address.IMDS6, address.Proxy,
}

// Destinations are the addresses the container's listener must be reachable at. They are the same slice for all
// containers, and not to be changed.
func Destinations(o Options) []netip.AddrPort {
	n := len(all)
	if o.Proxy == nil {
		n--
	}
	return all[:n:n]
}

// dialect is how a connection wants to be answered.
type dialect int

const (
	dialectNone dialect = iota
	dialectECS
	dialectPod
	dialectIMDS
	dialectProxy
)

// dialectOf is what is spoken at the address the client connected to.
func dialectOf(local net.Addr) dialect {
	a, ok := local.(*net.TCPAddr) // others have no addresses of ours
	if !ok {
		return dialectNone
	}
	ap := a.AddrPort()
	// A dual-stack listener reports IPv4 addresses in IPv6 clothes.
	switch netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()) {
	case address.ECS:
		return dialectECS
	case address.PodIdentity, address.PodIdentity6, address.FullURI:
		return dialectPod
	case address.IMDS, address.IMDS6:
		return dialectIMDS
	case address.Proxy:
		return dialectProxy
	}
	return dialectNone
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	h.serve(w, r, dialectOf(local))
}

// serve answers in a dialect. The clock is looked at, and the answer recorded, for the debug log alone.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, d dialect) {
	if d == dialectProxy && h.proxy != nil {
		h.proxy.ServeHTTP(w, r) // it hijacks connections and keeps its own log
		return
	}
	ctx := r.Context()
	if !h.log.Enabled(ctx, slog.LevelDebug) {
		h.answer(w, r, d)
		return
	}
	rec := &recorder{ResponseWriter: w}
	start := time.Now()
	h.answer(rec, r, d)
	h.log.LogAttrs(ctx, slog.LevelDebug, "request answered",
		slog.String("container_id", h.id.Short()), slog.String("role", h.role), slog.String("role_arn", h.arn.String()),
		slog.String("code", string(rec.code)), slog.Duration("duration", time.Since(start)))
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request, d dialect) {
	switch d {
	case dialectECS, dialectPod:
		h.serveCredentials(w, r, d)
	case dialectIMDS:
		h.serveIMDS(w, r)
	default:
		writeJSON(w, r, fault.New(fault.NotFound, "nothing of taskrole is served at this address", ""))
	}
}

// recorder notes the code of the fault that was answered, for the log.
type recorder struct {
	http.ResponseWriter
	code fault.Code
}
