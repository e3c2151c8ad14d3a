package endpoint_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
)

// What clients see, with status and the headers that matter, of every kind of answer. What is in these files is an
// interface: people and programs match it.
func TestEveryKindOfAnswerIsTheGoldenOne(t *testing.T) {
	w := newWorld(t, v1)
	w.mu.Lock()
	w.creds.Expires = time.Date(2199, 1, 2, 3, 4, 5, 0, time.UTC)
	w.mu.Unlock()
	off := newWorld(t, func(o *endpoint.Options) { o.IMDS = endpoint.Off })
	v2 := newWorld(t, nil)
	broken := newWorld(t, v1)
	broken.fail(fault.New(fault.CredentialsExpired, "the credentials of the role app expired at 2026-01-02T03:04:05Z; STS does not answer", "check the way to STS"))
	denied := newWorld(t, v1)
	denied.fail(fault.New(fault.STSDenied, "AWS refuses the role", "mend the trust policy"))
	stranger := newWorld(t, v1)
	stranger.refuse(fault.New(fault.NotThisContainer, "this process is not in the container", "only its own processes get its role"))
	role := rolesURL + "task-app"
	var b strings.Builder
	for _, c := range []struct {
		name string
		a    answer
	}{
		{"imds: credentials", w.do(http.MethodGet, role)},
		{"imds: iam/info", w.do(http.MethodGet, imdsURL+"/latest/meta-data/iam/info")},
		{"imds: listing", w.do(http.MethodGet, rolesURL)},
		{"imds: no token", v2.do(http.MethodGet, rolesURL)},
		{"imds: invalid token", w.do(http.MethodGet, imdsURL+"/", tokenHdr, "INVALID")},
		{"imds: token for too long", w.do(http.MethodPut, tokenURL, ttl, "21601")},
		{"imds: token through a proxy", w.do(http.MethodPut, tokenURL, ttl, "60", "X-Forwarded-For", "10.0.0.1")},
		{"imds: POST", w.do(http.MethodPost, tokenURL, ttl, "60")},
		{"imds: unknown version", w.do(http.MethodGet, imdsURL+"/1.1/")},
		{"imds: another name", w.do(http.MethodGet, rolesURL, "Host", "evil.example")},
		{"imds: off", off.do(http.MethodGet, rolesURL)},
		{"imds: nothing valid", broken.do(http.MethodGet, role)},
		{"imds: denied", denied.do(http.MethodGet, role)},
		{"imds: not the container", stranger.do(http.MethodGet, role)},
		{"container: the variable is empty", w.do(http.MethodGet, ecsURL)},
		{"container: unknown path", w.do(http.MethodGet, ecsURL+"/v1/credentials")},
		{"container: POST", w.do(http.MethodPost, credsURL)},
		{"container: another name", w.do(http.MethodGet, credsURL, "Host", "evil.example")},
		{"container: nothing valid", broken.do(http.MethodGet, credsURL)},
		{"container: denied", denied.do(http.MethodGet, credsURL)},
		{"container: not the container", stranger.do(http.MethodGet, credsURL)},
		{"pod identity: unknown path", w.do(http.MethodGet, "http://169.254.170.23/")},
		{"pod identity: nothing valid", broken.do(http.MethodGet, fullURL)},
	} {
		fmt.Fprintf(&b, "== %s\n%d\n", c.name, c.a.status)
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for name := range c.a.header {
				if name != "Date" && !yield(name) {
					return
				}
			}
		}) {
			fmt.Fprintf(&b, "%s: %s\n", name, c.a.header.Get(name))
		}
		fmt.Fprintf(&b, "\n%s\n", c.a.body)
	}
	updated := regexp.MustCompile(`("LastUpdated": ")[^"]*`)
	golden(t, "answers.txt", updated.ReplaceAllString(b.String(), "${1}NOW"))
}
