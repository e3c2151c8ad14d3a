//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"taskrole/internal/address"
	"taskrole/internal/netns"
	"taskrole/lab/cloud"
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
			name: "everything hangs", want: "container-endpoint-unreachable", once: true, c: with(relative),
			during: func(t *testing.T, w *world, id string) func() {
				return w.lose(t, id, address.ECS.Addr(), address.IMDS.Addr())
			},
		},
	}
}

// fakeIMDS answers a token's request with one status and the listing with another.
func fakeIMDS(token, listing int, date time.Duration) map[netip.AddrPort]http.HandlerFunc {
	return map[netip.AddrPort]http.HandlerFunc{address.IMDS: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(date).UTC().Format(http.TimeFormat))
		if r.Method == http.MethodPut {
			w.WriteHeader(token)
			io.WriteString(w, "token")
			return
		}
		w.WriteHeader(listing)
		io.WriteString(w, "somebody")
	}}
}

func metadata() []injected {
	none := ec2.Container{Network: ec2.NetworkNone}
	hops := func(required bool) func(*testing.T, *world, string) func() {
		return func(t *testing.T, w *world, _ string) func() {
			w.cloud.SetTokensRequired(required)
			check(t, w.cloud.SetHopLimit(1))
			return func() { w.cloud.SetTokensRequired(false); check(t, w.cloud.SetHopLimit(2)) }
		}
	}
	return []injected{
		{name: "no network", want: "imds-unreachable", show: true, c: none, evidence: "--network none"},
		{name: "internal network", want: "imds-unreachable", c: ec2.Container{Network: "doctor-internal"}},
		{
			name: "firewall", want: "imds-unreachable", once: true, c: with(), evidence: "packets are lost on the way",
			during: func(t *testing.T, w *world, id string) func() { return w.lose(t, id, address.IMDS.Addr()) },
		},
		{name: "host's role", want: "host-role", c: with(), source: "instance metadata"},
		{name: "host's role, host network", want: "host-role", once: true, c: ec2.Container{Network: ec2.NetworkHost}, source: "instance metadata"},
		{name: "hop limit", want: "imds-hop-limit", once: true, c: with(), during: hops(true)},
		{name: "hop limit, IMDSv1", want: "imds-v1-fallback", once: true, c: with(), during: hops(false), source: "instance metadata"},
		{name: "token refused", want: "imds-v2-required", once: true, c: none, serve: fakeIMDS(405, 401, 0)},
		{name: "clock", want: "clock-skew", once: true, c: none, serve: fakeIMDS(200, 200, -20*time.Minute)},
		{name: "instance without a role", want: "imds-no-role", once: true, c: none, serve: fakeIMDS(200, 404, 0)},
		{
			name: "IMDS switched off", want: "imds-off", once: true, c: with(),
			during: func(_ *testing.T, w *world, _ string) func() {
				w.cloud.SetMetadataEnabled(false)
				return func() { w.cloud.SetMetadataEnabled(true) }
			},
		},
		{
			name: "guard", want: "imds-guarded", once: true, c: with(),
			during: func(t *testing.T, w *world, _ string) func() {
				w.guard(t, "enforce")
				return func() { w.guard(t, `"off"`) }
			},
		},
		{
			name: "IMDS throttled", want: "imds-throttled", once: true, c: with(),
			during: func(t *testing.T, w *world, _ string) func() {
				check(t, w.cloud.SetFault(cloud.Fault{Service: "imds", Kind: cloud.Throttle}))
				return func() { w.cloud.ClearFaults("imds") }
			},
		},
	}
}

func roles() []injected {
	return []injected{
		{
			name: "agent dead", want: "agent-down", c: ec2.Container{Role: "reader"},
			during: func(t *testing.T, w *world, _ string) func() {
				check(t, w.stopAgent(os.Kill))
				return func() { check(t, w.startAgent(t.Context())) }
			},
		},
		{name: "variable without the runtime", want: "role-not-attached", c: with("TASKROLE=reader")},
		{
			name: "addresses taken away", want: "addresses-missing", c: ec2.Container{Role: "reader"}, evidence: "169.254.170.2 is not on a device",
			during: func(t *testing.T, w *world, id string) func() {
				w.inside(t, id, func(n *netns.NS) error { return n.RemoveAddresses([]netip.Addr{address.ECS.Addr()}) })
				return func() {}
			},
		},
		{name: "policy says no", want: "role-refused", c: ec2.Container{Role: "keeper"}, evidence: "rule 1: no match"},
		{name: "STS says no", want: "sts-refused", c: ec2.Container{Role: "untrusted"}, evidence: "sts:AssumeRole"},
	}
}

// prepare makes the files, the image and the network that conditions need.
func (w *world) prepare(t *testing.T) {
	t.Helper()
	dir := w.files()
	check(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	profile := "[default]\naws_access_key_id = %s\naws_secret_access_key = " + theSecret + "\n"
	for name, text := range map[string]string{
		"session":    fmt.Sprintf(profile, theASIA) + "aws_session_token = " + theToken + "\n",
		"long-lived": fmt.Sprintf(profile, theAKIA), "token": theToken, "newline": theToken + "\n", "private": theToken,
	} {
		mode := os.FileMode(0o644)
		if name == "private" {
			mode = 0o600
		}
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), mode))
	}
	files := map[string]string{"/probe": bin("taskrole-lab-probe")}
	check(t, w.docker.ImportFiles(t.Context(), "probe-user", files, `ENTRYPOINT ["/probe"]`, "USER 1000"))
	w.must(t, "network", "create", "--internal", "doctor-internal")
	t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "network", "rm", "doctor-internal") })
}

// files is a directory that the engine sees.
func (w *world) files() string { return filepath.Join(w.dir, "run", "doctor") }

// inject starts the container of a condition, if it starts, and returns its name.
func (w *world) inject(t *testing.T, i injected) string {
	t.Helper()
	c := i.c
	// The SDK looks for credentials at once, says what it has, and stays.
	c.Detach, c.Args, c.Files = true, []string{"do", "keys", "--", "env", "HOSTNAME", "--", "sleep", "10m"}, map[string]string{}
	if c.Image == "" {
		c.Image = "probe"
	}
	c.Name = "doctor-" + strings.NewReplacer(" ", "-", "'", "", ",", "").Replace(strings.ToLower(i.name))
	if c.Role != "" {
		c.Way = w.way
	}
	for inside, name := range i.mount {
		c.Files[filepath.Join(w.files(), name)] = inside
	}
	if !i.plain {
		c.Env = append(slices.Clone(c.Env), regions...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w.removeLater(t, c.Name)
	if _, err := w.docker.Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	for addr, h := range i.serve {
		w.serveInside(t, c.Name, addr, h)
	}
	return c.Name
}

// removeLater removes a container, with all others of the test, at its end: one command for all is quicker.
func (w *world) removeLater(t *testing.T, name string) {
	t.Helper()
	if w.doomed == nil {
		t.Cleanup(func() {
			r, err := w.docker.Exec(context.WithoutCancel(t.Context()), append([]string{"rm", "-f", "-v"}, w.doomed...)...)
			if err != nil || r.Exit != 0 {
				t.Errorf("docker rm: %v %s", err, r.Stderr)
			}
			w.doomed = nil
		})
	}
	w.doomed = append(w.doomed, name)
}

// inside calls f with a container's network namespace.
func (w *world) inside(t *testing.T, id string, f func(*netns.NS) error) {
	t.Helper()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", w.pid(t, id)))
	check(t, err)
	defer ns.Close()
	check(t, f(ns))
}

// serveInside answers in a container's network namespace.
func (w *world) serveInside(t *testing.T, id string, addr netip.AddrPort, h http.HandlerFunc) {
	t.Helper()
	w.inside(t, id, func(ns *netns.NS) error {
		if _, err := ns.AddAddresses([]netip.Addr{addr.Addr()}); err != nil {
			return err
		}
		l, err := netns.Do(ns, func() (net.Listener, error) { return net.Listen("tcp4", addr.String()) })
		if err != nil {
			return err
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		return nil
	})
}

// lose makes what a container sends to the addresses go nowhere: to a neighbour that is not there.
func (w *world) lose(t *testing.T, id string, addrs ...netip.Addr) func() {
	t.Helper()
	w.inside(t, id, func(ns *netns.NS) error {
		_, err := netns.Do(ns, func() (struct{}, error) {
			for _, a := range addrs {
				dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
				if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.IPv4(10, 99, 16, 250)}); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		return err
	})
	return func() {}
}
