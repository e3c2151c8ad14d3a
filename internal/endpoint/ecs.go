package endpoint

import (
	"fmt"
	"net/http"
	"strings"

	"taskrole/internal/address"
	"taskrole/internal/fault"
)

// ecs is the container credentials endpoint.
type ecs struct {
	role   string
	bodies *bodies
}

// ServeHTTP implements http.Handler.
func (e *ecs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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

func (e *ecs) answer(r *http.Request) ([]byte, *fault.Error) {
	if f := checkHost(r.Host, []string{address.ECS.Addr().String()}); f != nil {
		return nil, f
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, fault.New(fault.MethodNotAllowed, "credentials are asked for with GET, not with "+cut(r.Method), "")
	}
	path := tidyPath(r.URL.Path)
	switch {
	case path == "":
		// botocore asks for / when the variable is there but empty, and shows people what it is told.
		return nil, fault.New(fault.EmptyURI, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set but empty",
			"do not set it yourself; taskrole sets it to "+address.CredentialsPath(e.role))
	case !address.IsCredentialsPath(path) || strings.Count(path, "/") != strings.Count(address.CredentialsPath(e.role), "/"):
		return nil, fault.New(fault.NotFound, fmt.Sprintf("nothing is served at %s", cut(r.URL.Path)),
			"the credentials of this container are at "+address.CredentialsPath(e.role))
	}
	// Whatever name the path ends with: it is this container's listener, and there is one role (rule R15).
	b, f := e.bodies.current()
	if f != nil {
		return nil, f
	}
	return b.ecs, nil
}
