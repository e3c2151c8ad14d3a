package endpoint

import (
	"log/slog"
	"net/http"

	"taskrole/internal/address"
	"taskrole/internal/secret"
)

// PrivatePath is where a private endpoint has its document.
const PrivatePath = address.PodIdentityPath

// PrivateOptions describe an endpoint that belongs to one process of the host.
type PrivateOptions struct {
	// Authorization is the token that every request must carry. On the host's loopback there is nothing else to tell its
	// process by, so an empty one lets nobody in.
	Authorization secret.Value
	// Credentials returns the current ones from memory, at once, or a *fault.Error. A broker.Lease has it.
	Credentials func() (secret.Credentials, error)
}

// NewPrivate returns a handler for the connections of one process, which answers with the container credentials document
// at PrivatePath, and with nothing else: there is no instance metadata service and no dialect to choose.
func NewPrivate(o PrivateOptions) http.Handler {
	token := o.Authorization
	if token.Empty() {
		token = NewTokenKey().Authorization("") // which nobody knows
	}
	return &private{handler{authorization: token, bodies: bodies{credentials: o.Credentials}, log: slog.New(slog.DiscardHandler)}}
}

// private speaks one dialect at whatever address it is.
type private struct{ handler }

// ServeHTTP implements http.Handler.
func (p *private) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(w, r, dialectPod) }
