package endpoint

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"

	"taskrole/internal/address"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// containers is a container credentials endpoint, as ECS and EKS have them. They give the same document and differ in
// the paths they know.
type containers struct {
	path   func(tidied string) *fault.Error // says why nothing is served at a path
	names  []string                         // in the Host header, besides loopback
	token  secret.Value                     // what the Authorization header must be; empty: anything
	bodies *bodies
	task   Metadata // may be nil
}

// ServeHTTP implements http.Handler.
func (e *containers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	document, f := e.answer(r)
	if f != nil {
		if f.Code == fault.MethodNotAllowed {
			w.Header().Set("Allow", "GET, HEAD")
		}
		writeJSON(w, r, f)
		return
	}
	write(w, r, http.StatusOK, typeJSON, document)
}

func (e *containers) answer(r *http.Request) ([]byte, *fault.Error) {
	if f := checkHost(r.Host, e.names); f != nil {
		return nil, f
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, fault.New(fault.MethodNotAllowed, "credentials are asked for with GET, not with "+cut(r.Method), "")
	}
	path := tidyPath(r.URL.Path)
	if e.task != nil && e.task.Has(path) {
		b, err := e.task.Document(r.Context(), path)
		return b, fault.As(err)
	}
	if f := e.path(path); f != nil {
		return nil, f
	}
	if !e.authorized(r) {
		return nil, fault.New(fault.AuthorizationInvalid, "the Authorization header is not the token of this container's role",
			"leave AWS_CONTAINER_AUTHORIZATION_TOKEN as taskrole sets it")
	}
	b, f := e.bodies.current()
	if f != nil {
		return nil, f
	}
	return b.container, nil
}

// authorized compares the token as it is: SDKs send what the environment holds, without a scheme.
func (e *containers) authorized(r *http.Request) bool {
	if e.token.Empty() {
		return true
	}
	values := r.Header["Authorization"]
	return len(values) == 1 && subtle.ConstantTimeCompare([]byte(values[0]), []byte(e.token.Reveal())) == 1
}

// ecsPath knows the paths of the ECS endpoint. Whatever name one ends with: it is this container's listener, and there
// is one role (rule R15).
func ecsPath(role string) func(string) *fault.Error {
	own := address.CredentialsPath(role)
	return func(path string) *fault.Error {
		switch {
		case path == "":
			// botocore asks for / when the variable is there but empty, and shows people what it is told.
			return fault.New(fault.EmptyURI, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set but empty",
				"do not set it yourself; taskrole sets it to "+own)
		case !address.IsCredentialsPath(path) || strings.Count(path, "/") != strings.Count(own, "/"):
			return fault.New(fault.NotFound, fmt.Sprintf("nothing is served at %s", cut(path)),
				"the credentials of this container are at "+own)
		}
		return nil
	}
}

// podPath knows the one path of the EKS Pod Identity agent.
func podPath(path string) *fault.Error {
	if path == address.PodIdentityPath {
		return nil
	}
	return fault.New(fault.NotFound, fmt.Sprintf("nothing is served at %s", cut("/"+strings.TrimPrefix(path, "/"))),
		"the credentials of this container are at "+address.PodIdentityPath)
}
