package endpoint_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/container"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

func TestTokenOfAnotherContainerIsRefused(t *testing.T) {
	key := endpoint.NewTokenKey() // the agent has one for all
	a := newWorld(t, func(o *endpoint.Options) { o.Tokens = key })
	b := newWorld(t, func(o *endpoint.Options) { o.Tokens = key; o.Container.ID = container.ID(strings.Repeat("b", 64)) })
	if got := b.do(http.MethodGet, rolesURL, tokenHdr, a.token()); got.status != http.StatusUnauthorized {
		t.Errorf("another container's token: %d, want 401", got.status)
	}
}

func TestForgedTokensAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token()
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		if a := w.do(http.MethodGet, rolesURL, tokenHdr, strings.Map(printable, string(forged))); a.status != http.StatusUnauthorized {
			t.Fatalf("token with character %d changed: %d", i, a.status)
		}
	}
	if a := w.do(http.MethodGet, rolesURL, tokenHdr, token, tokenHdr, "x"); a.status != http.StatusUnauthorized {
		t.Errorf("two tokens: %d", a.status)
	}
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '_'
	}
	return r
}

// A web page opened in the container reaches the endpoints under a name of its own.
func TestDNSRebindingIsRefused(t *testing.T) {
	w := newWorld(t, v1)
	for _, host := range []string{"evil.example", "evil.example:80", "169.254.170.2.evil.example", "localhost.evil.example", "169.254.170.3", "[::2]"} {
		if a := w.do(http.MethodGet, credsURL, "Host", host); a.status != http.StatusBadRequest || strings.Contains(a.body, "ASIA") {
			t.Errorf("ECS as %s: %d %s", host, a.status, a.body)
		}
		if a := w.do(http.MethodGet, rolesURL+"task-app", "Host", host); a.status != http.StatusBadRequest || strings.Contains(a.body, "ASIA") {
			t.Errorf("IMDS as %s: %d %s", host, a.status, a.body)
		}
	}
	for _, host := range []string{"169.254.170.2", "169.254.170.2:80", "127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:80", "[::1]", "[::1]:80"} {
		if a := w.do(http.MethodGet, credsURL, "Host", host); a.status != http.StatusOK {
			t.Errorf("ECS as %s: %d %s", host, a.status, a.body)
		}
	}
	for _, host := range []string{"169.254.169.254", "169.254.169.254:80", "[fd00:ec2::254]", "[FD00:EC2::254]:80"} {
		if a := w.do(http.MethodGet, rolesURL, "Host", host); a.status != http.StatusOK {
			t.Errorf("IMDS as %s: %d %s", host, a.status, a.body)
		}
	}
	if a := w.raw(address.ECS, "GET /v2/credentials/app HTTP/1.1\r\nHost: [::1%25eth0]\r\n\r\n"); a.status != http.StatusBadRequest {
		t.Errorf("a Host with a zone: %d", a.status)
	}
	// HTTP/1.0 has no Host.
	if a := w.raw(address.ECS, "GET /v2/credentials/app HTTP/1.0\r\n\r\n"); a.status != http.StatusOK {
		t.Errorf("HTTP/1.0: %d", a.status)
	}
}

// The dialect is the address that was connected to, whatever the request says.
func TestTheDialectIsNotTheClientsChoice(t *testing.T) {
	w := newWorld(t, func(o *endpoint.Options) { o.IMDS = endpoint.Off })
	if a := w.raw(address.IMDS, "GET /v2/credentials/app HTTP/1.1\r\nHost: localhost\r\n\r\n"); a.status != http.StatusForbidden {
		t.Errorf("the container endpoint's path at the metadata service that is off: %d", a.status)
	}
	if a := w.raw(address.ECS, "GET /latest/meta-data/iam/security-credentials/x HTTP/1.1\r\nHost: localhost\r\n\r\n"); a.status != http.StatusNotFound {
		t.Errorf("a metadata path at the container endpoint: %d", a.status)
	}
}

func TestAnUnknownLocalAddressGetsNothing(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer serve(l, endpoint.New(endpoint.Options{Credentials: w.credentials}))()
	resp, err := http.Get("http://" + l.Addr().String() + "/v2/credentials/app")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNotFound || strings.Contains(string(b), "ASIA") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func TestARefusedConnectionIsToldWhyAndNeverServed(t *testing.T) {
	proxied := false
	w := newWorld(t, func(o *endpoint.Options) {
		o.IMDS = endpoint.V1AndV2
		o.Proxy = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied = true })
	})
	w.refuse(fault.New(fault.NotThisContainer, "this process is outside the container <web>", "run it inside"))
	for u, want := range map[string]string{
		credsURL: `"message":"this process is outside the container \u003cweb\u003e: run it inside"`, ecsURL: `"code":"not-this-container"`,
		rolesURL + "task-app":                "outside the container &lt;web&gt;: run it inside [not-this-container]",
		imdsURL + "/":                        "<title>404 - Not Found</title>",
		"http://127.0.0.1:61170/v2/whatever": `"code":"not-this-container"`,
	} {
		if a := w.do(http.MethodGet, u); a.status != http.StatusNotFound || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", u, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPut, tokenURL, ttl, "60"); a.status != http.StatusNotFound {
		t.Errorf("a refused connection gets a token: %d", a.status)
	}
	if proxied {
		t.Error("a refused connection reached the proxy")
	}
}

func TestOversizeHeadersAndGarbageAreAnsweredAndBounded(t *testing.T) {
	w := newWorld(t, nil)
	for name, tc := range map[string]struct {
		request string
		status  int
	}{
		"oversize_header": {"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		"oversize_line":   {"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431},
		"garbage":         {"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400},
		"two_hosts":       {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"http2_preface":   {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405},
		"two_lengths":     {"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
		"options_star":    {"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405},
		"connect":         {"CONNECT sts.amazonaws.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
		"absolute":        {"GET http://evil.example/v2/credentials/app HTTP/1.1\r\nHost: 169.254.170.2\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			if a := w.raw(address.ECS, tc.request); a.status != tc.status {
				t.Errorf("%d %s, want %d", a.status, a.body, tc.status)
			}
		})
	}
	if a := w.do(http.MethodGet, credsURL); a.status != http.StatusOK {
		t.Errorf("afterwards: %d", a.status)
	}
}

// pipes is a listener without a network, so that time can be false.
type pipes struct {
	t     *testing.T
	conns chan net.Conn
	local net.Addr
}

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return p.local }

type pipeConn struct {
	net.Conn
	local net.Addr
}

func (c pipeConn) LocalAddr() net.Addr { return c.local }

// dial connects as if to the listener's address.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- pipeConn{theirs, p.local}
	return ours
}

// inBubble serves the options at one address under false time.
func inBubble(t *testing.T, at netip.AddrPort, o endpoint.Options, f func(p *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := theCredentials()
		o.Container.ID, o.Role, o.RoleARN = theID, "app", theRole
		o.Credentials = func() (secret.Credentials, error) { return c, nil }
		p := &pipes{t: t, conns: make(chan net.Conn), local: net.TCPAddrFromAddrPort(at)}
		stop := serve(p, endpoint.New(o))
		f(p)
		close(p.conns)
		stop()
		time.Sleep(time.Second) // net/http does after CloseWrite
	})
}

func TestASlowClientIsCutOffAndDisturbsNobody(t *testing.T) {
	inBubble(t, address.ECS, endpoint.Options{}, func(p *pipes) {
		start := time.Now()
		var slow []net.Conn
		for _, sent := range []string{"", "GET /v2/cred", "GET /v2/credentials/app HTTP/1.1\r\nHost: loc"} {
			for range 20 {
				c := p.dial()
				fmt.Fprint(c, sent)
				slow = append(slow, c)
			}
		}
		quick := p.dial()
		fmt.Fprint(quick, "GET /v2/credentials/app HTTP/1.1\r\nHost: localhost\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(quick), nil)
		if err == nil {
			defer r.Body.Close()
		}
		if err != nil || r.StatusCode != http.StatusOK || time.Since(start) > 0 {
			p.t.Errorf("beside slow clients after %s: %v", time.Since(start), err)
		}
		for _, c := range slow {
			if b, _ := io.ReadAll(c); strings.Contains(string(b), "ASIA") || time.Since(start) > 6*time.Second {
				p.t.Fatalf("a slow client got %q after %s", b, time.Since(start))
			}
		}
		if b, _ := io.ReadAll(quick); time.Since(start) > 61*time.Second {
			p.t.Errorf("an idle connection stayed for %s, and got %q", time.Since(start), b)
		}
	})
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	inBubble(t, address.ECS, endpoint.Options{}, func(p *pipes) {
		c := p.dial()
		fmt.Fprint(c, "GET /v2/credentials/app HTTP/1.1\r\nHost: localhost\r\n\r\n")
		time.Sleep(11 * time.Second)
		if b, _ := io.ReadAll(c); len(b) > 0 {
			p.t.Errorf("it still got %q", b)
		}
	})
}

// A body is not needed, so nobody waits for it.
func TestASlowBodyIsCutOff(t *testing.T) {
	inBubble(t, address.IMDS, endpoint.Options{}, func(p *pipes) {
		c := p.dial()
		fmt.Fprint(c, "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\nx")
		start := time.Now()
		_, _ = io.ReadAll(c)
		if time.Since(start) > 11*time.Second {
			p.t.Errorf("it stayed for %s", time.Since(start))
		}
	})
}

// A proxy's tunnel outlives the server's deadlines.
func TestHijackedConnectionsHaveNoDeadline(t *testing.T) {
	proxy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		b := make([]byte, 5)
		_, _ = io.ReadFull(buf, b)
		_, _ = c.Write(b)
	})
	inBubble(t, address.Proxy, endpoint.Options{Proxy: proxy}, func(p *pipes) {
		c := p.dial()
		fmt.Fprint(c, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
		time.Sleep(time.Hour)
		fmt.Fprint(c, "hello")
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			p.t.Errorf("%q, %v", b, err)
		}
	})
}
