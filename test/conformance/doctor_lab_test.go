//go:build conformance

package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"taskrole/internal/diagnose"
	"taskrole/internal/netns"
)

// The identities that can win, by the key that signs. They are made up: nobody checks a signature here.
const (
	envKeyID  = "AKIAEXAMPLEENV000001"
	sessionID = "ASIAEXAMPLEENV000002"
	fileID    = "AKIAEXAMPLEFILE00003"
	profileID = "AKIAEXAMPLEFILE00004"
	endpoint  = "ASIAEXAMPLECONT00005"
	hostID    = "ASIAEXAMPLEIMDS00006"
	webID     = "ASIAEXAMPLEWEBID0007"
	madeUp    = "made-up-and-no-secret-at-all-00000000000"
)

// fromRole is the role that taskrole serves, at both addresses the same.
const fromRole diagnose.Source = "the container's role"

// identity is who signs.
type identity struct {
	source diagnose.Source
	detail string
}

var identities = map[string]identity{
	envKeyID: {source: diagnose.FromEnv}, sessionID: {source: diagnose.FromEnv},
	fileID: {diagnose.FromFile, "default"}, profileID: {diagnose.FromFile, "p"},
	endpoint: {source: diagnose.FromContainer}, hostID: {source: diagnose.FromIMDS}, webID: {source: diagnose.FromWebIdentity},
}

// signature is what a request to a service was signed with.
type signature struct{ key, token string }

// services stands for STS and S3, on a port for each client of the container: it notes who signs, and refuses. Only a
// web identity is exchanged.
type services struct {
	ports map[string]string // to clients

	mu    sync.Mutex // guards first
	first map[string]*signature
}

const firstPort = 9000

func newServices(clients []client) *services {
	s := &services{ports: map[string]string{}, first: map[string]*signature{}}
	for i, c := range clients {
		s.ports[fmt.Sprint(firstPort+i)] = c.name
	}
	return s
}

// signed is what the client signed its first request with; nil if it signed none.
func (s *services) signed(client string) *signature {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first[client]
}

var credential = regexp.MustCompile(`Credential=([A-Z0-9]+)/`)

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, port, _ := strings.Cut(r.Host, ":")
	client := s.ports[port]
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what was cut off is answered the same way
	if m := credential.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		s.mu.Lock()
		if s.first[client] == nil {
			s.first[client] = &signature{m[1], r.Header.Get("X-Amz-Security-Token")}
		}
		s.mu.Unlock()
	}
	switch {
	case client == "": // as a proxy that has no way to the link-local addresses
		http.Error(w, "no way there", http.StatusBadGateway)
	case strings.Contains(string(body), "Action=AssumeRoleWithWebIdentity"):
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>`+
			`<SubjectFromWebIdentityToken>s</SubjectFromWebIdentityToken><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/w/s</Arn>`+
			`<AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>`+
			`<SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			webID, madeUp, madeUp, later())
	case r.Method == http.MethodPost:
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>seen</Message></Error><RequestId>1</RequestId></ErrorResponse>`)
	default:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `<Error><Code>AccessDenied</Code><Message>seen</Message><RequestId>1</RequestId></Error>`)
	}
}

func later() string { return time.Now().Add(6 * time.Hour).UTC().Format(time.RFC3339) }

// document is what a container endpoint answers.
func document(id string) string {
	return fmt.Sprintf(`{"RoleArn": "arn:aws:iam::123456789012:role/app", "AccessKeyId": %q, "SecretAccessKey": %q, "Token": %q, "Expiration": %q}`,
		id, madeUp, madeUp, later())
}

// answer is a container endpoint that says always the same.
func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// well is a container endpoint as it should be.
func well(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" {
		http.NotFound(w, r)
		return
	}
	answer(http.StatusOK, document(endpoint))(w, r)
}

// hang takes the connection and never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// hostIMDS is an instance's metadata service: put answers the token's request, nil as it should.
func hostIMDS(put http.HandlerFunc) http.HandlerFunc {
	if put == nil {
		put = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
			io.WriteString(w, theToken)
		}
	}
	s := &imds{put: put, credentials: []byte(fmt.Sprintf(`{"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": %q, "AccessKeyId": %q, `+
		`"SecretAccessKey": %q, "Token": %q, "Expiration": %q}`, time.Now().UTC().Format(time.RFC3339), hostID, madeUp, madeUp, later()))}
	return s.ServeHTTP
}

// serveIn answers at addresses in a process's network namespace until stop is called.
func serveIn(pid int, at map[netip.AddrPort]http.Handler) (stop func(), err error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	var servers []*http.Server
	var served sync.WaitGroup
	stop = func() {
		for _, s := range servers {
			_ = s.Close()
		}
		served.Wait()
	}
	for addr, h := range at {
		if _, err := ns.AddAddresses([]netip.Addr{addr.Addr()}); err != nil {
			return nil, errors.Join(err, stopped(stop))
		}
		l, err := netns.Do(ns, func() (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr.String())
		})
		if err != nil {
			return nil, errors.Join(err, stopped(stop))
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		servers = append(servers, s)
		served.Go(func() { _ = s.Serve(l) })
	}
	return stop, nil
}

func stopped(stop func()) error { stop(); return nil }
