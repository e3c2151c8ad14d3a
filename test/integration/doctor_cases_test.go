//go:build integration

package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"taskrole/internal/address"
	"taskrole/lab/ec2"
)

// injected is one condition.
type injected struct {
	name  string
	want  string // the code, or "" for a container that is well
	c     ec2.Container
	plain bool // without the regions
	show  bool // the report for people goes into the log
	once  bool // the engine makes no difference: only on the newest
	// mount are files of prepare's, by the path inside.
	mount map[string]string
	// serve answers at an address in the container's own namespace.
	serve map[netip.AddrPort]http.HandlerFunc
	// before changes the world before the container starts, and returns how to change it back.
	before func(*testing.T, *world) func()
	// during changes the world around the diagnosis and returns how to change it back.
	during   func(t *testing.T, w *world, id string) func()
	source   string   // of Go v2's credentials, if it matters
	evidence string   // some of it
	says     []string // likewise
}

const relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x"

func conditions() []injected {
	return slices.Concat(environments(), files(), endpoints(), metadata(), roles())
}

// with is a container's environment.
func with(env ...string) ec2.Container { return ec2.Container{Env: env} }

func environments() []injected {
	role := func(env ...string) ec2.Container { return ec2.Container{Role: "reader", Env: env} }
	const identity = "AWS_WEB_IDENTITY_TOKEN_FILE=/token"
	return []injected{
		{name: "token forgotten", want: "session-token-missing", show: true, c: with(session[:2]...), source: "environment"},
		{name: "secret forgotten", want: "credentials-partial", once: true, c: with(session[:1]...)},
		{name: "long-lived key", want: "keys-long-lived", once: true, c: with("AWS_ACCESS_KEY_ID="+theAKIA, session[1])},
		{name: "token of another key", want: "session-token-unexpected", once: true, c: with("AWS_ACCESS_KEY_ID="+theAKIA, session[1], session[2])},
		{name: "two tokens", want: "session-token-stale", once: true, c: with(append(session, "AWS_SECURITY_TOKEN=another")...)},
		{name: "token by its old name", want: "session-token-stale", once: true, c: with(session[0], session[1], "AWS_SECURITY_TOKEN="+theToken)},
		{name: "session over", want: "credentials-expired", once: true, c: with(append(session, "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z")...)},
		{name: "no such profile", want: "profile-missing", once: true, c: with("AWS_PROFILE=nope")},
		{name: "web identity, no role", want: "web-identity-incomplete", once: true, c: with(identity), mount: map[string]string{"/token": "token"}},
		{name: "web identity, no file", want: "web-identity-incomplete", once: true, c: with(identity, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w")},
		{name: "empty URI", want: "uri-empty", once: true, c: with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=")},
		{name: "empty full URI", want: "uri-empty", once: true, c: with("AWS_CONTAINER_CREDENTIALS_FULL_URI=")},
		{name: "URI without a slash", want: "uri-malformed", once: true, c: with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=creds")},
		{name: "full URI to anywhere", want: "full-uri-refused", once: true, c: with("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://10.99.0.1/creds")},
		{name: "proxy before the host's IMDS", want: "proxy-takes-metadata host-role", once: true, c: with("HTTP_PROXY=http://10.99.0.1:3128")},
		{name: "mode in small letters", want: "endpoint-mode-invalid", once: true, c: role("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=ipv6")},
		{name: "IMDS disabled", want: "imds-disabled", once: true, c: with("AWS_EC2_METADATA_DISABLED=true")},
		{name: "IMDS disabled by 1", want: "imds-disabled-ambiguous", once: true, c: role("AWS_EC2_METADATA_DISABLED=1")},
		{name: "no region", want: "region-missing", once: true, plain: true, c: with(session...)},
		{name: "IMDS disabled by false", want: "imds-disabled-ambiguous", once: true, c: role("AWS_EC2_METADATA_DISABLED=false")},
		{name: "keys that are empty", c: role("AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="), once: true, source: "container endpoint"},
		{name: "proxy, and all excepted", c: role("HTTP_PROXY=http://10.99.0.1:3128", "NO_PROXY=169.254.170.2,169.254.169.254"), once: true, source: "container endpoint"},
		{name: "web identity, token empty", want: "web-identity-incomplete", once: true, c: with(identity, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"), mount: map[string]string{"/token": "empty"}},
		{name: "both URIs", want: "both-uris", once: true, c: role("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + address.FullURI.String() + address.PodIdentityPath)},
		{name: "keys over the role", want: "keys-shadow-role", once: true, c: role(session...), source: "environment"},
	}
}

func files() []injected {
	full := "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/creds"
	token := "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/token"
	none := func(env ...string) ec2.Container { return ec2.Container{Network: ec2.NetworkNone, Env: env} }
	unprivileged := none(full, token)
	unprivileged.Image = "probe-user"
	webUser := none("AWS_WEB_IDENTITY_TOKEN_FILE=/token", "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w")
	webUser.Image = "probe-user"
	well := map[netip.AddrPort]http.HandlerFunc{
		netip.MustParseAddrPort("127.0.0.1:80"): document(theToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
	}
	return []injected{
		{
			name: "file over the role", want: "file-shadows-role", c: ec2.Container{Role: "reader", Env: []string{"HOME=/root"}},
			mount: map[string]string{"/root/.aws/credentials": "session"},
		},
		{
			name: "long-lived key in a file", want: "keys-long-lived-in-file", once: true, c: with("HOME=/root"), source: "file",
			mount: map[string]string{"/root/.aws/credentials": "long-lived"},
		},
		{
			name: "token forgotten in a file", want: "session-token-missing", once: true, c: with("HOME=/root"), source: "file",
			mount: map[string]string{"/root/.aws/credentials": "bare"},
		},
		{
			name: "half a profile", want: "credentials-partial", once: true, c: with("HOME=/root"),
			mount: map[string]string{"/root/.aws/credentials": "half"},
		},
		{
			name: "web identity for root only", want: "web-identity-incomplete", once: true, c: webUser, mount: map[string]string{"/token": "private"},
			evidence: "user 1000 may not read it",
		},
		{
			name: "token with a line break", want: "token-file-newline", once: true, c: none(full, token), serve: well,
			mount: map[string]string{"/token": "newline"},
		},
		{name: "token not mounted", want: "token-file-unreadable", once: true, c: none(full, token), serve: well, evidence: "does not exist"},
		{
			name: "token for root only", want: "token-file-unreadable", once: true, c: unprivileged, serve: well, mount: map[string]string{"/token": "private"},
			evidence: "user 1000 may not read it",
		},
	}
}

// at answers at the address of ECS.
func at(h http.HandlerFunc) map[netip.AddrPort]http.HandlerFunc {
	return map[netip.AddrPort]http.HandlerFunc{address.ECS: h}
}

// document answers with credentials; what is "" is left out.
func document(token, expires string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"RoleArn": "arn:aws:iam::123456789012:role/app", "AccessKeyId": %q, "SecretAccessKey": %q, "Token": %q, "Expiration": %q}`,
			theASIA, theSecret, token, expires)
	}
}

func endpoints() []injected {
	none := ec2.Container{Network: ec2.NetworkNone, Env: []string{relative}}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	return []injected{
		{name: "URI copied from ECS", want: "container-endpoint-unreachable", once: true, c: none},
		{name: "an endpoint that is well", c: none, once: true, serve: at(document(theToken, later)), source: "container endpoint"},
		{name: "endpoint serves the dead", want: "credentials-expired", once: true, c: none, serve: at(document(theToken, "2020-01-01T00:00:00Z"))},
		{name: "endpoint without a token", want: "credentials-incomplete", once: true, c: none, serve: at(document("", later))},
		{name: "endpoint without an end", want: "credentials-incomplete", once: true, c: none, serve: at(document(theToken, "soon"))},
		{
			name: "proxy", want: "proxy-takes-metadata", once: true, serve: at(document(theToken, later)),
			c: ec2.Container{Network: ec2.NetworkNone, Env: []string{relative, "HTTP_PROXY=http://user:" + theSecret + "@10.99.0.1:3128"}},
		},
		{
			name: "role of another partition", want: "partition-mismatch", once: true, plain: true, serve: at(document(theToken, later)),
			c: ec2.Container{Network: ec2.NetworkNone, Env: []string{relative, "AWS_REGION=cn-north-1", "AWS_DEFAULT_REGION=cn-north-1"}},
		},
		{
			name: "endpoint refuses", want: "container-endpoint-error", once: true, c: none, evidence: "no task",
			serve: at(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, `{"code": "InvalidIdInRequest", "message": "no task"}`)
			}),
		},
		{
			name: "something else answers", want: "endpoint-foreign", once: true, c: none,
			serve: at(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>It works!") }),
		},
		{
			name: "full URI to the address of ECS", want: "full-uri-refused", once: true, serve: at(document(theToken, later)), source: "container endpoint",
			c:        ec2.Container{Network: ec2.NetworkNone, Env: []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.2/creds"}},
			evidence: "JavaScript v2",
		},
		{
			name: "everything hangs", want: "container-endpoint-unreachable", once: true, c: with(relative),
			during: func(t *testing.T, w *world, id string) func() {
				return w.lose(t, id, address.ECS.Addr(), address.IMDS.Addr())
			},
		},
	}
}
