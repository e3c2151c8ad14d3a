package endpoint_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/container"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/instance"
	"taskrole/internal/secret"
)

var update = flag.Bool("update", false, "write the golden files anew")

// world is one container's endpoint behind real sockets on 127.0.0.1 whose connections claim to have been made to the
// link-local addresses, so that no packet is ever sent to one.
type world struct {
	t     *testing.T
	ports map[netip.AddrPort]string // what the client dials instead
	http  *http.Client

	mu      sync.Mutex
	creds   secret.Credentials
	err     error
	refused *fault.Error
}

var theRole = arn.Role{Partition: "aws", Account: "123456789012", Path: "/team/", Name: "task-app"}

var theInstance = &instance.Facts{ID: "i-0"}

const theID = container.ID("3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee0000")

func theCredentials() secret.Credentials {
	return secret.Credentials{
		AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: secret.New("se/cret+key"), SessionToken: secret.New("tok<en&=="),
		Expires: time.Now().UTC().Truncate(time.Second).Add(time.Hour), AccountID: "123456789012", RoleARN: theRole.String(),
	}
}

// claimed is a connection that was made to another address than it says.
type claimed struct {
	net.Conn
	local net.Addr
	w     *world
}

func (c claimed) LocalAddr() net.Addr { return c.local }

func (c claimed) Refused() *fault.Error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.refused
}

type claimedListener struct {
	net.Listener
	local net.Addr
	w     *world
}

func (l claimedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return claimed{c, l.local, l.w}, nil
}

func newWorld(t *testing.T, change func(*endpoint.Options)) *world {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	w := &world{t: t, ports: map[netip.AddrPort]string{}, creds: theCredentials()}
	o := endpoint.Options{
		Container: container.Container{ID: theID, Name: "web"}, Role: "app", RoleARN: theRole, Region: "eu-west-1",
		Instance: func() *instance.Facts { return theInstance }, Credentials: w.credentials,
	}
	if change != nil {
		change(&o)
	}
	h := endpoint.New(o)
	var stops []func()
	dests := endpoint.Destinations(o)
	for _, d := range dests {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.ports[d] = l.Addr().String()
		// IPv4 destinations look mapped, as on the dual-stack listener of the agent.
		local := &net.TCPAddr{IP: net.IP(netip.AddrFrom16(d.Addr().As16()).AsSlice()), Port: int(d.Port())}
		stops = append(stops, serve(claimedListener{l, local, w}, h))
	}
	w.http = &http.Client{
		Transport:     &http.Transport{DialContext: w.dial, MaxIdleConnsPerHost: 4},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected") },
		Timeout:       20 * time.Second,
	}
	t.Cleanup(func() {
		w.http.CloseIdleConnections()
		for _, stop := range stops {
			stop()
		}
	})
	return w
}

// serve answers what l accepts with h, as the agent does, until stop is called.
func serve(l net.Listener, h http.Handler) (stop func()) {
	srv := endpoint.NewServer(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			srv.Handle(c, h)
		}
	}()
	return func() {
		_ = l.Close()
		<-done
		_ = srv.Close()
	}
}

func (w *world) credentials() (secret.Credentials, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.creds, w.err
}

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.creds, w.err = secret.Credentials{}, err
}

func (w *world) refuse(f *fault.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = f
}

func (w *world) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	to, ok := w.ports[ap]
	if !ok {
		return nil, errors.New("no such destination: " + addr)
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends one request; headers are name, value, ….
func (w *world) do(method, url string, headers ...string) answer {
	w.t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := w.http.Do(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// raw sends bytes and returns the first answer.
func (w *world) raw(to netip.AddrPort, request string) answer {
	w.t.Helper()
	c, err := net.Dial("tcp", w.ports[to])
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}
}

const (
	ecsURL   = "http://169.254.170.2"
	credsURL = ecsURL + "/v2/credentials/app"
	podURL   = "http://169.254.170.23/v1/credentials"
	pod6URL  = "http://[fd00:ec2::23]/v1/credentials"
	fullURL  = "http://127.0.0.1:61171/v1/credentials"
	imdsURL  = "http://169.254.169.254"
	imds6URL = "http://[fd00:ec2::254]"
	tokenURL = imdsURL + "/latest/api/token"
	rolesURL = imdsURL + "/latest/meta-data/iam/security-credentials/"
	ttl      = "X-aws-ec2-metadata-token-ttl-seconds"
	tokenHdr = "X-aws-ec2-metadata-token"
)

func (w *world) token() string {
	w.t.Helper()
	a := w.do(http.MethodPut, tokenURL, ttl, "21600")
	if a.status != http.StatusOK {
		w.t.Fatalf("PUT token: %d %s", a.status, a.body)
	}
	return a.body
}

// get asks with a fresh token.
func (w *world) get(url string, headers ...string) answer {
	w.t.Helper()
	return w.do(http.MethodGet, url, append(headers, tokenHdr, w.token())...)
}

func v1(o *endpoint.Options) { o.IMDS = endpoint.V1AndV2 }

// contextWithLocal is what net/http gives a handler.
func contextWithLocal(ctx context.Context, local net.Addr) context.Context {
	return context.WithValue(ctx, http.LocalAddrContextKey, local)
}
