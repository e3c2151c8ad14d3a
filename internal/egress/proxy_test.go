package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/egress"
)

// stage is a proxy in front of servers on 127.0.0.1 that stand for the whole world: every name resolves to 203.0.113.1,
// and every dial ends at the server.
type stage struct {
	t      *testing.T
	proxy  *egress.Proxy
	url    *url.URL
	mu     sync.Mutex
	dialed []string
}

func newStage(t *testing.T, world string, o egress.Options) *stage {
	t.Helper()
	s := &stage{t: t}
	if o.Lookup == nil {
		o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("203.0.113.1")}, nil
		}
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			s.mu.Lock()
			s.dialed = append(s.dialed, address)
			s.mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, world)
		}
	}
	s.proxy = newProxy(t, o)
	srv := httptest.NewUnstartedServer(s.proxy)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 10*time.Second, 10*time.Second
	srv.Config.DisableGeneralOptionsHandler = true // as the agent's server
	srv.Start()
	t.Cleanup(func() { s.proxy.Close(); srv.Close() })
	s.url, _ = url.Parse(srv.URL)
	return s
}

func (s *stage) client(tlsConfig *tls.Config) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(s.url), TLSClientConfig: tlsConfig, DisableCompression: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *stage) addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.dialed...)
}

// raw sends bytes to the proxy and returns what comes back until the end.
func (s *stage) raw(request string) (status string, rest string) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.url.Host)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, request)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: strings.SplitN(request, " ", 2)[0]})
	if err != nil {
		return "", err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.Status, string(b)
}

const s3Host = "bucket.s3.eu-west-1.amazonaws.com"

var onlyS3 = egress.Options{Region: "eu-west-1", Services: []string{"s3"}}

func TestHTTPSGoesThroughATunnel(t *testing.T) {
	body := make([]byte, 4<<20)
	_, _ = rand.Read(body)
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the proxy's headers reach the service")
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer origin.Close()
	s := newStage(t, origin.Listener.Addr().String(), onlyS3)
	c := s.client(&tls.Config{InsecureSkipVerify: true})
	resp, err := c.Post("https://"+s3Host+"/key", "x/y", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(body), err)
	}
	if diff := cmp.Diff([]string{"203.0.113.1:443"}, s.addresses()); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

func TestARefusalIsASentenceThatClientsShow(t *testing.T) {
	s := newStage(t, "", onlyS3)
	resp, err := s.client(nil).Get("https://example.com/")
	if err == nil {
		resp.Body.Close()
	}
	want := "example.com:443 is not among the endpoints this container's role may reach: add its service or the endpoint to egress in the role's configuration"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Go's client says: %v", err)
	}
	status, body := s.raw("CONNECT sts.eu-west-1.amazonaws.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	if !strings.HasPrefix(status, "403 sts.eu-west-1.amazonaws.com:443 is not among") || !strings.HasSuffix(status, "; it has s3 in eu-west-1") {
		t.Errorf("status line %q", status)
	}
	_ = body // a client that sent CONNECT may not read one
	status, body = s.raw("GET http://example.com/ HTTP/1.1\r\nHost: x\r\n\r\n")
	var doc struct{ Code, Message string }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || status != "403 Forbidden" || doc.Code != "egress-denied" || !strings.HasPrefix(doc.Message, "example.com:80 is not among") {
		t.Errorf("%s %s %v", status, body, err)
	}
	if len(s.addresses()) != 0 {
		t.Errorf("dialled %v", s.addresses())
	}
}

func TestTrickyDestinationsAreRefused(t *testing.T) {
	s := newStage(t, "", egress.Options{Region: "eu-west-1", Services: []string{"s3"}, Endpoints: []string{"http://10.99.0.1", "https://vpce.example:8443"}})
	good := s3Host
	for _, request := range []string{
		"CONNECT " + good + ":80", "CONNECT " + good, "CONNECT " + good + ":443@evil.example:443", "CONNECT evil.example:443@" + good + ":443",
		"CONNECT u:p@" + good + ":443", "CONNECT " + good + "%00.evil.example:443", "CONNECT " + good + "%2eevil.example:443", "CONNECT 169.254.169.254:443",
		"CONNECT 169.254.169.254:80", "CONNECT [fd00:ec2::254]:80", "CONNECT [::ffff:169.254.169.254]:80", "CONNECT 127.0.0.1:443", "CONNECT localhost:443",
		"CONNECT [::1]:443", "CONNECT [::1%25lo]:443", "CONNECT 2852039166:80", "CONNECT 0xa9fea9fe:80", "CONNECT " + good + "..:443", "CONNECT /x", "CONNECT http://" + good + ":443",
		"CONNECT 10.99.0.1:80", "CONNECT vpce.example:443", "CONNECT " + good + "#:443", "CONNECT " + good + "?:443",
		"GET http://" + good + "/", "GET https://" + good + "/", "GET http://vpce.example:8443/", "GET http://10.99.0.1:81/", "GET http://u:p@10.99.0.1/", "GET http://10.99.0.1@evil.example/",
		"GET http://evil.example/http://10.99.0.1/", "GET http://10.99.0.1\\@evil.example/", "GET http://10.99.0.1%2f@evil.example/", "GET http://169.254.169.254/latest/meta-data/",
		"GET http://10.99.0.2/", "GET ftp://10.99.0.1/", "GET file:///etc/passwd", "GET //10.99.0.1/", "GET /", "GET http:10.99.0.1/", "GET http:///x", "GET http://0x0a630001/",
		"OPTIONS *", "GET http://10.99.0.1.evil.example/", "GET http://[::ffff:169.254.169.254]/",
	} {
		status, body := s.raw(request + " HTTP/1.1\r\nHost: 10.99.0.1\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(status, "403 ") && !strings.HasPrefix(status, "400 ") {
			t.Errorf("%s: %s %s", request, status, body)
		}
	}
	if len(s.addresses()) != 0 {
		t.Errorf("dialled %v", s.addresses())
	}
}

func TestDNSAnswersAreLookedAtAndTheSameAddressIsDialled(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for name, tc := range map[string]struct {
		answers []netip.Addr
		err     error
		status  string
		dialed  []string
	}{
		"loopback":     {answers: addrs("127.0.0.1", "::1"), status: "403 the name " + s3Host + " stands for a loopback address"},
		"metadata":     {answers: addrs("169.254.169.254"), status: "403 the name " + s3Host + " stands for a link-local address"},
		"mapped":       {answers: addrs("::ffff:169.254.169.254"), status: "403 "},
		"unspecified":  {answers: addrs("0.0.0.0", "::"), status: "403 "},
		"multicast":    {answers: addrs("224.0.0.1"), status: "403 "},
		"none":         {answers: nil, status: "403 "},
		"dns_is_down":  {err: &net.DNSError{Err: "server misbehaving", Name: s3Host}, status: "502 the name " + s3Host + " cannot be resolved on this host: server misbehaving"},
		"one_bad":      {answers: addrs("127.0.0.1", "203.0.113.7"), status: "502 ", dialed: []string{"203.0.113.7:443"}},
		"private_vpce": {answers: addrs("10.1.2.3"), status: "502 " + s3Host + ":443 may be reached, but does not answer: refused", dialed: []string{"10.1.2.3:443"}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var dialed []string
			lookups := 0
			s := newStage(t, "", egress.Options{
				Region: "eu-west-1", Services: []string{"s3"},
				Lookup: func(context.Context, string) ([]netip.Addr, error) {
					mu.Lock()
					defer mu.Unlock()
					if lookups++; lookups > 1 {
						return addrs("127.0.0.1"), nil // a rebinding server's second answer
					}
					return tc.answers, tc.err
				},
				Dial: func(_ context.Context, _, address string) (net.Conn, error) {
					mu.Lock()
					defer mu.Unlock()
					dialed = append(dialed, address)
					return nil, errors.New("refused")
				},
			})
			status, _ := s.raw("CONNECT " + s3Host + ":443 HTTP/1.1\r\nHost: x\r\n\r\n")
			if !strings.HasPrefix(status, tc.status) {
				t.Errorf("status %q, want %q", status, tc.status)
			}
			if diff := cmp.Diff(tc.dialed, dialed); diff != "" || lookups != 1 {
				t.Errorf("%d lookups; dialled (-want +got):\n%s", lookups, diff)
			}
		})
	}
}

func TestALiteralLoopbackEndpointMayBeConfigured(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }))
	defer origin.Close()
	s := newStage(t, origin.Listener.Addr().String(), egress.Options{Endpoints: []string{"http://127.0.0.1:4566"}})
	resp, err := s.client(nil).Get("http://127.0.0.1:4566/x")
	if err != nil { // Go's client itself sends loopback past a proxy only if told so by the environment
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:4566"}, s.addresses()); diff != "" {
		t.Error(diff)
	}
}

func TestPlainRequestsGoAsTheyWereSignedWithoutHopByHopHeaders(t *testing.T) {
	var got http.Request
	var body string
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = *r, string(b)
		w.Header().Set("Location", "http://evil.example/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer origin.Close()
	s := newStage(t, origin.Listener.Addr().String(), egress.Options{Endpoints: []string{"http://10.99.0.1"}})
	status, _ := s.raw("PUT http://10.99.0.1/bu%2Fcket/a%20b//c/../d?x=1;y=%zz&list-type=2 HTTP/1.1\r\nHost: evil.example\r\nAuthorization: AWS4-HMAC-SHA256 x\r\n" +
		"Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nTE: gzip\r\n" +
		"X-Forwarded-For: 1.2.3.4\r\nX-Amz-Date: now\r\nContent-Length: 5\r\n\r\nhello")
	if !strings.HasPrefix(status, "307 ") {
		t.Errorf("a redirect is followed or lost: %s", status)
	}
	if got.RequestURI != "/bu%2Fcket/a%20b//c/../d?x=1;y=%zz&list-type=2" || got.Host != "10.99.0.1" || body != "hello" || got.ContentLength != 5 {
		t.Errorf("%s, host %s, body %q of %d", got.RequestURI, got.Host, body, got.ContentLength)
	}
	for _, h := range []string{"Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "Connection", "X-Hop", "Upgrade", "Te", "Via", "X-Forwarded-For", "Accept-Encoding"} {
		if v := got.Header.Get(h); v != "" {
			t.Errorf("%s: %q reaches the service", h, v)
		}
	}
	if got.Header.Get("Authorization") == "" || got.Header.Get("X-Amz-Date") == "" {
		t.Errorf("headers are missing: %v", got.Header)
	}
}

// One request in, one request out, whatever its framing.
func TestSmuggledRequestsDoNotReachTheService(t *testing.T) {
	var seen atomic.Int32
	origin := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.Contains(r.URL.Path, "smuggled") {
			t.Errorf("%s %s reached the service", r.Method, r.URL)
		}
	}))
	defer origin.Close()
	s := newStage(t, origin.Listener.Addr().String(), egress.Options{Endpoints: []string{"http://10.99.0.1"}})
	const inner = "GET /smuggled HTTP/1.1\r\nHost: 10.99.0.1\r\n\r\n"
	for _, framing := range []string{
		"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"Transfer-Encoding: xchunked\r\n\r\n", "Content-Length: 0\r\nContent-Length: 46\r\n\r\n", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "Content-Length: +0\r\n\r\n",
	} {
		s.raw("POST http://10.99.0.1/outer HTTP/1.1\r\nHost: 10.99.0.1\r\nConnection: close\r\n" + framing + inner)
	}
	t.Logf("%d outer requests got through", seen.Load())
}

func TestExpectContinueAndStreaming(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer origin.Close()
	s := newStage(t, origin.Listener.Addr().String(), egress.Options{Endpoints: []string{"http://10.99.0.1"}})
	body := make([]byte, 8<<20)
	_, _ = rand.Read(body)
	c := s.client(nil)
	c.Transport.(*http.Transport).ExpectContinueTimeout = 5 * time.Second
	for _, length := range []int64{int64(len(body)), -1} {
		r, _ := http.NewRequest(http.MethodPut, "http://10.99.0.1/key", bytes.NewReader(body))
		r.ContentLength = length
		r.Header.Set("Expect", "100-continue")
		start := time.Now()
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) || time.Since(start) > 4*time.Second {
			t.Errorf("length %d: %d bytes of %d after %s: %v", length, len(got), len(body), time.Since(start), err)
		}
	}
}

func TestTunnelsAreBoundedAndCloseEndsThem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newStage(t, l.Addr().String(), onlyS3)
	connect := func() (net.Conn, string) {
		c, err := net.Dial("tcp", s.url.Host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n", s3Host)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		line, _ := bufio.NewReader(c).ReadString('\n')
		return c, line
	}
	var open []net.Conn
	for range egress.MaxOpen {
		c, line := connect()
		if !strings.Contains(line, "200") {
			t.Fatalf("tunnel %d: %s", len(open), line)
		}
		open = append(open, c)
	}
	if _, line := connect(); !strings.Contains(line, "502 this container has 64 connections") {
		t.Errorf("one too many: %s", line)
	}
	open[0].Close() // the listener's side was never accepted, so the tunnel half-closes; close ours fully
	done := make(chan struct{})
	go func() { s.proxy.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not come back")
	}
	for _, c := range open[1:] {
		if _, err := io.ReadAll(c); err != nil && errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("a tunnel outlives Close")
		}
	}
	if _, line := connect(); !strings.Contains(line, "502 ") {
		t.Errorf("after Close: %s", line)
	}
}
