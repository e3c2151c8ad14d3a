package endpoint

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/fault"
	"taskrole/internal/instance"
)

// The headers of IMDSv2, in the form net/http gives them.
const (
	headerToken     = "X-Aws-Ec2-Metadata-Token"
	headerTokenTTL  = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	headerForwarded = "X-Forwarded-For"
)

// maxTTL is the longest life of a token: six hours (EC2 user guide, "Use IMDSv2").
const maxTTL = 21600

// Paths below the version.
const (
	tokenPath    = "api/token"
	rolesPath    = "meta-data/iam/security-credentials"
	infoPath     = "meta-data/iam/info"
	identityPath = "dynamic/instance-identity/document"
)

// imdsNames are the service's in the Host header, besides loopback.
var imdsNames = []string{address.IMDS.Addr().String(), address.IMDS6.Addr().String()}

// grown is the tree of some facts.
type grown struct {
	of   *instance.Facts
	tree tree
}

// serveIMDS is the instance metadata service.
func (h *handler) serveIMDS(w http.ResponseWriter, r *http.Request) {
	path, known := version(tidyPath(r.URL.Path))
	switch f := checkHost(r.Host, imdsNames); {
	case f != nil:
		writeHTML(w, r, f)
	case h.mode == Off:
		writeHTMLStatus(w, r, http.StatusForbidden, "the instance metadata service is off for this container: use "+
			"the container credentials that the environment names, or set imds in the role's configuration")
	case known && path == tokenPath && r.Method == http.MethodPut:
		h.token(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		wrongMethod(w, r, path)
	case !h.hasToken(r):
		writeHTMLStatus(w, r, http.StatusUnauthorized, "a valid session token is needed: PUT /latest/"+tokenPath+" gives one")
	case tidyPath(r.URL.Path) == "":
		write(w, r, http.StatusOK, typeText, documentOf([]byte(versions)))
	case !known:
		writeHTMLStatus(w, r, http.StatusNotFound, "there is no such version")
	case path == tokenPath:
		wrongMethod(w, r, path)
	default:
		h.metadata(w, r, path)
	}
}

// wrongMethod says which one is right.
func wrongMethod(w http.ResponseWriter, r *http.Request, path string) {
	allow, why := "GET, HEAD", "metadata is asked for with GET"
	if path == tokenPath {
		allow, why = http.MethodPut, "a session token is asked for with PUT"
	}
	w.Header().Set("Allow", allow)
	writeHTMLStatus(w, r, http.StatusMethodNotAllowed, why)
}

// token answers PUT /latest/api/token.
func (h *handler) token(w http.ResponseWriter, r *http.Request) {
	if _, ok := r.Header[headerForwarded]; ok {
		// A proxy in the container that forwards strangers' requests must not hand out tokens (EC2 user guide).
		writeHTMLStatus(w, r, http.StatusForbidden, "a request that came through a proxy gets no token")
		return
	}
	ttl, err := strconv.ParseUint(r.Header.Get(headerTokenTTL), 10, 16)
	if values := r.Header[headerTokenTTL]; err != nil || len(values) != 1 || ttl < 1 || ttl > maxTTL {
		writeHTMLStatus(w, r, http.StatusBadRequest, fmt.Sprintf("the header %s must be a number from 1 to %d", headerTokenTTL, maxTTL))
		return
	}
	// Go's and Rust's SDKs fail without the header (rule R9).
	w.Header().Set(headerTokenTTL, strconv.FormatUint(ttl, 10))
	until := time.Now().Add(time.Duration(ttl) * time.Second)
	write(w, r, http.StatusOK, typeText, documentOf([]byte(h.tokens.mint(h.id, until))))
}

// hasToken says whether the request may be routed. A token that is there must be valid even where none is needed, and
// that is looked at before the path: Fluent Bit finds out in this way which version is spoken (rule R11).
func (h *handler) hasToken(r *http.Request) bool {
	values, ok := r.Header[headerToken]
	if !ok {
		return h.mode == V1AndV2
	}
	return len(values) == 1 && h.tokens.valid(h.id, values[0], time.Now())
}

// metadata answers what the tree or the credentials hold; everything else is not found (rule R12 needs exactly 404).
func (h *handler) metadata(w http.ResponseWriter, r *http.Request, path string) {
	role, ok := strings.CutPrefix(path, rolesPath+"/")
	switch {
	case ok && role != "" && !strings.Contains(role, "/"):
		// Whatever role name: SDKs ask for one they were told before the container was made anew (rule R15).
		h.withBodies(w, r, func(b *rendered) (document, *fault.Error) {
			d, f := b.document(formIMDS)
			if f == nil {
				h.visits.note(r, time.Now())
			}
			return d, f
		})
	case path == infoPath:
		h.withBodies(w, r, func(b *rendered) (document, *fault.Error) {
			_, f := b.document(formIMDS) // what is told of credentials that cannot be had would mislead
			return documentOf(h.instanceProfile(b.since)), f
		})
	default:
		if body, ok := h.tree()[path]; ok {
			write(w, r, http.StatusOK, typeText, documentOf(body))
			return
		}
		writeHTMLStatus(w, r, http.StatusNotFound, "this container has no such metadata")
	}
}

// tree is the tree of what is known now. It is made once for each change.
func (h *handler) tree() tree {
	f := h.instance()
	if g := h.grown.Load(); g != nil && g.of == f {
		return g.tree
	}
	g := &grown{of: f, tree: h.newTree(*f)}
	h.grown.Store(g) // two requests at the moment of a change both store the same
	return g.tree
}

func (h *handler) withBodies(w http.ResponseWriter, r *http.Request, pick func(*rendered) (document, *fault.Error)) {
	b, f := h.bodies.current()
	var d document
	if f == nil {
		d, f = pick(b)
	}
	if f != nil {
		writeHTML(w, r, f)
		return
	}
	write(w, r, http.StatusOK, typeJSON, d)
}
