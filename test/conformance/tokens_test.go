//go:build conformance

package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"taskrole/internal/netns"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/iam"
	"taskrole/test/conformance"
)

// tokenClients are those whose token step the contract's §6.1 tells, as far as there is something to run.
func tokenClients() []string {
	return []string{"boto3", "go-v2", "go-v1", "js-v3", "js-v2", "java-v2", "rust", "ruby"}
}

// tokenAnswer is one row of the contract's §6.1: what a metadata service makes of PUT /latest/api/token, and what each
// client then does: v2 takes the token, v1 asks without one and has the host's role, stop finds nothing. Our own endpoint
// gives only some of them; the others are what a container without taskrole meets, and what the doctor speaks of.
type tokenAnswer struct {
	name   string
	answer http.HandlerFunc
	env    []string
	want   string
}

func tokenAnswers() []tokenAnswer {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, http.StatusText(code), code) }
	}
	grant := func(ttl bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if ttl {
				w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
			}
			_, _ = w.Write([]byte(theToken)) // a client that has gone is seen in its verdict
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	const v1 = "v1 v1 v1 v1 v1 v1 stop v1"
	return []tokenAnswer{
		{"200, with the TTL header", grant(true), nil, "v2 v2 v2 v2 v2 v2 v2 v2"},
		{"200, without the TTL header", grant(false), nil, "v2 v1 v1 v2 v2 v2 stop v2"},
		{"400", status(http.StatusBadRequest), nil, "stop stop stop stop stop stop stop stop"},
		{"401", status(http.StatusUnauthorized), nil, v1},
		{"403", status(http.StatusForbidden), nil, v1},
		{"404", status(http.StatusNotFound), nil, v1},
		{"405", status(http.StatusMethodNotAllowed), nil, v1},
		{"500", status(http.StatusInternalServerError), nil, "v1 v1 v1 v1 stop v1 stop v1"},
		{"503", status(http.StatusServiceUnavailable), nil, "v1 v1 v1 v1 stop v1 stop v1"},
		{"no answer, as with a hop limit of 1", hang, nil, v1},
		{"the connection is reset", reset, nil, "v1 v1 v1 v1 v1 v1 stop stop"},
		{"403, and AWS_EC2_METADATA_V1_DISABLED=true", status(http.StatusForbidden), []string{"AWS_EC2_METADATA_V1_DISABLED=true"}, "stop stop stop stop stop stop stop stop"},
	}
}

// reset ends the connection without a word, as a firewall that rejects does.
func reset(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // HTTP/1 connections can be taken over
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

const theToken = "AQAEAToken=="

// imds answers as an EC2 instance with IMDSv1 and a role, but for the token, and notes how it was asked for the keys.
type imds struct {
	put         http.HandlerFunc
	credentials []byte
	with        atomic.Bool // the keys were asked for with the token
}

const imdsRole = "host-role"

func (s *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const list = "/latest/meta-data/iam/security-credentials"
	path := strings.TrimSuffix(r.URL.Path, "/")
	token := r.Header.Get("X-Aws-Ec2-Metadata-Token")
	switch {
	case r.Method == http.MethodPut && path == "/latest/api/token":
		s.put(w, r)
	case token != "" && token != theToken:
		http.Error(w, "no such token", http.StatusUnauthorized)
	case path == list:
		_, _ = w.Write([]byte(imdsRole))
	case path == list+"/"+imdsRole:
		s.with.Store(token != "")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.credentials)
	default:
		http.NotFound(w, r)
	}
}

// newIMDS serves a session of the account whose name is from-imds.
func newIMDS(c *cloud.Cloud, put http.HandlerFunc) (*imds, error) {
	c.LimitSessions(0)
	s := c.Account().NewSession(c.Account().Role(cloud.RoleARN(cloud.TaskReader)), iam.SessionOptions{Name: "from-imds", Life: 6 * time.Hour})
	c.LimitSessions(*life)
	now := time.Now().UTC()
	text, err := json.Marshal(map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now.Format(time.RFC3339), "AccessKeyId": s.AccessKeyID,
		"SecretAccessKey": s.Secret.Reveal(), "Token": s.Token.Reveal(), "Expiration": now.Add(6 * time.Hour).Format(time.RFC3339),
	})
	return &imds{put: put, credentials: text}, err
}

// tokenStep runs the rows on the newest engine.
func tokenStep(ctx context.Context, t *testing.T, worlds []*world) []conformance.Verdict {
	t.Helper()
	w := worlds[len(worlds)-1]
	run := runnable(tokenClients())
	if len(run) == 0 || !*golden {
		return nil
	}
	b := newBoard()
	for _, a := range tokenAnswers() {
		b.row(a.name, tokenClients(), a.want)
		for _, c := range run {
			b.judge(c.name, func() verdict { return w.askForToken(ctx, c, a) })
		}
	}
	return b.wait()
}

// askForToken runs one client before such a metadata service, in a container with a way to the laboratory and no role.
func (w *world) askForToken(ctx context.Context, c client, a tokenAnswer) verdict {
	service, err := newIMDS(w.cloud, a.answer)
	if err != nil {
		return verdict{got: "not started", note: err.Error()}
	}
	// The client begins when somebody listens at 169.254.169.254:80.
	const wait = `until grep -q ' FEA9FEA9:0050 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done; exec env "$@"`
	b, err := w.launch(ctx, c, ec2.Container{Network: ec2.NetworkBridge}, append([]string{"sh", "-c", wait, "sh"}, a.env...), 0,
		"AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1")
	if err != nil {
		return verdict{got: "not started", note: err.Error()}
	}
	defer b.remove(ctx)
	stop, err := b.serve(ctx, service)
	if err != nil {
		return verdict{got: "not started", note: err.Error()}
	}
	defer stop()
	l, err := b.line(ctx, 1, time.Minute)
	if err != nil {
		return verdict{got: "stop", note: err.Error()}
	}
	switch ok, why := l.found(); {
	case !ok:
		return verdict{got: "stop", note: why}
	case !strings.HasSuffix(l.arn, "/from-imds"):
		return verdict{got: "another identity", note: l.arn}
	case service.with.Load():
		return verdict{got: "v2", took: l.took}
	}
	return verdict{got: "v1", took: l.took}
}

// serve answers at the metadata service's address in the container's own network namespace until stop is called.
func (b *box) serve(ctx context.Context, h http.Handler) (stop func(), err error) {
	r, err := b.w.docker.Exec(ctx, "inspect", "--format={{.State.Pid}}", b.name)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(r.Stdout)))
	if err != nil {
		return nil, err
	}
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	at := netip.MustParseAddrPort("169.254.169.254:80")
	if _, err := ns.AddAddresses([]netip.Addr{at.Addr()}); err != nil {
		return nil, err
	}
	l, err := netns.Do(ns, func() (net.Listener, error) { return net.Listen("tcp4", at.String()) })
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	return func() { _ = s.Close(); <-served }, nil
}
