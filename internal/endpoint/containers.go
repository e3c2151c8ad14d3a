package endpoint

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/fault"
)

// The names a container credentials endpoint has in the Host header, besides loopback.
var (
	ecsNames = []string{address.ECS.Addr().String()}
	podNames = []string{address.PodIdentity.Addr().String(), address.PodIdentity6.Addr().String()}
)

// serveCredentials is a container credentials endpoint, as ECS and EKS have them. They give the same document and differ
// in the paths they know.
func (h *handler) serveCredentials(w http.ResponseWriter, r *http.Request, d dialect) {
	document, f := h.document(r, d)
	if f != nil {
		if f.Code == fault.MethodNotAllowed {
			w.Header().Set("Allow", "GET, HEAD")
		}
		writeJSON(w, r, f)
		return
	}
	write(w, r, http.StatusOK, typeJSON, document)
}

func (h *handler) document(r *http.Request, d dialect) (document, *fault.Error) {
	names, known := ecsNames, h.ecsPath
	if d == dialectPod {
		names, known = podNames, podPath
	}
	if f := checkHost(r.Host, names); f != nil {
		return document{}, f
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return document{}, fault.New(fault.MethodNotAllowed, "credentials are asked for with GET, not with "+cut(r.Method), "")
	}
	path := tidyPath(r.URL.Path)
	if d == dialectECS && h.task != nil && h.task.Has(path) {
		b, err := h.task.Document(r.Context(), path)
		return documentOf(b), fault.As(err)
	}
	if f := known(path); f != nil {
		return document{}, f
	}
	if !h.mayHave(r) {
		return document{}, fault.New(fault.AuthorizationInvalid, "the Authorization header is not the token of this container's role",
			"leave AWS_CONTAINER_AUTHORIZATION_TOKEN as taskrole sets it")
	}
	b, f := h.bodies.current()
	if f != nil {
		return document{}, f
	}
	body, f := b.document(formContainer)
	if f == nil {
		h.visits.note(r, time.Now())
	}
	return body, f
}

// mayHave compares the token as it is: SDKs send what the environment holds, without a scheme.
func (h *handler) mayHave(r *http.Request) bool {
	if h.authorization.Empty() {
		return true
	}
	values := r.Header["Authorization"]
	return len(values) == 1 && subtle.ConstantTimeCompare([]byte(values[0]), []byte(h.authorization.Reveal())) == 1
}

// ecsPath knows the paths of the ECS endpoint. Whatever name one ends with: it is this container's listener, and there
// is one role (rule R15).
func (h *handler) ecsPath(path string) *fault.Error {
	switch {
	case path == "":
		// botocore asks for / when the variable is there but empty, and shows people what it is told.
		return fault.New(fault.EmptyURI, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set but empty",
			"do not set it yourself; taskrole sets it to "+address.CredentialsPath(h.role))
	case !address.IsCredentialsPath(path) || strings.Contains(path[len(address.CredentialsPath("")):], "/"):
		return fault.New(fault.NotFound, fmt.Sprintf("nothing is served at %s", cut(path)),
			"the credentials of this container are at "+address.CredentialsPath(h.role))
	}
	return nil
}

// podPath knows the one path of the EKS Pod Identity agent.
func podPath(path string) *fault.Error {
	if path == address.PodIdentityPath {
		return nil
	}
	return fault.New(fault.NotFound, fmt.Sprintf("nothing is served at %s", cut("/"+strings.TrimPrefix(path, "/"))),
		"the credentials of this container are at "+address.PodIdentityPath)
}
