package imds_test

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	awsimds "github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"taskrole/lab/imds"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func options() imds.Options {
	return imds.Options{
		AccountID: "123456789012", Region: "eu-west-1", InstanceID: "i-0123456789abcdef0", PrivateIP: "10.0.0.10", RoleName: "host",
		Credentials: func() (imds.Credentials, error) {
			return imds.Credentials{AccessKeyID: "ASIALAB", SecretAccessKey: "secret", Token: "token", Expires: noon.Add(time.Hour)}, nil
		},
		Now: func() time.Time { return noon }, Logger: slog.New(slog.DiscardHandler),
	}
}

func newServer(tb testing.TB, o imds.Options) *imds.Server {
	tb.Helper()
	s, err := imds.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func do(tb testing.TB, h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), method, "http://imds.test"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

const (
	ttl   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	token = "X-Aws-Ec2-Metadata-Token"
)

func TestTokenRules(t *testing.T) {
	for _, tc := range []struct {
		name, method string
		header       []string
		want         int
	}{
		{"one_second", "PUT", []string{ttl, "1"}, 200},
		{"six_hours", "PUT", []string{ttl, "21600"}, 200},
		{"none", "PUT", nil, 400},
		{"zero", "PUT", []string{ttl, "0"}, 400},
		{"too_long", "PUT", []string{ttl, "21601"}, 400},
		{"not_a_number", "PUT", []string{ttl, "6h"}, 400},
		{"through_a_proxy", "PUT", []string{ttl, "60", "X-Forwarded-For", "10.0.0.1"}, 403},
		{"through_a_coy_proxy", "PUT", []string{ttl, "60", "X-Forwarded-For", ""}, 403},
		{"get", "GET", []string{ttl, "60"}, 405},
		{"post", "POST", []string{ttl, "60"}, 405},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := do(t, newServer(t, options()), tc.method, "/latest/api/token", tc.header...)
			if rec.Code != tc.want {
				t.Fatalf("%d, want %d", rec.Code, tc.want)
			}
			if tc.want == 200 && (rec.Header().Get(ttl) != tc.header[1] || rec.Body.Len() < 40 || strings.ContainsAny(rec.Body.String(), "\r\n ")) {
				t.Errorf("headers %v, body %q", rec.Header(), rec.Body)
			}
			if tc.want != 200 && !strings.Contains(rec.Body.String(), "<h1>") {
				t.Errorf("body %q", rec.Body)
			}
			if rec.Header().Get("Server") != "EC2ws" {
				t.Errorf("Server = %q", rec.Header().Get("Server"))
			}
		})
	}
}

func TestTokensOptionalAndRequired(t *testing.T) {
	o := options()
	now := noon
	o.Now = func() time.Time { return now }
	s := newServer(t, o)
	good := do(t, s, "PUT", "/latest/api/token", ttl, "60").Body.String()
	foreign := do(t, newServer(t, o), "PUT", "/latest/api/token", ttl, "60").Body.String()
	const path = "/latest/meta-data/instance-id"
	for _, required := range []bool{false, true} {
		s.SetTokensRequired(required)
		now = noon
		without := 200
		if required {
			without = 401
		}
		if got := do(t, s, "GET", path).Code; got != without {
			t.Errorf("required %v, none: %d, want %d", required, got, without)
		}
		for what, tc := range map[string]struct {
			path, token string
			want        int
		}{
			"good":                 {path, good, 200},
			"invalid":              {path, "INVALID", 401},
			"empty":                {path, "", 401},
			"changed":              {path, "Z" + good[1:], 401},
			"of_another_instance":  {path, foreign, 401},
			"invalid_on_the_root":  {"/", "INVALID", 401}, // how Fluent Bit finds out the version
			"good_on_the_root":     {"/", good, 200},
			"invalid_on_a_missing": {"/latest/nothing", "INVALID", 401},
		} {
			if got := do(t, s, "GET", tc.path, token, tc.token).Code; got != tc.want {
				t.Errorf("required %v, %s: %d, want %d", required, what, got, tc.want)
			}
		}
		now = noon.Add(59 * time.Second)
		if rec := do(t, s, "GET", path, token, good); rec.Code != 200 || rec.Header().Get(ttl) != "1" {
			t.Errorf("a second before the end: %d, ttl %q", rec.Code, rec.Header().Get(ttl))
		}
		now = noon.Add(60 * time.Second)
		if got := do(t, s, "GET", path, token, good).Code; got != 401 {
			t.Errorf("at the end: %d, want 401", got)
		}
	}
}

func TestTree(t *testing.T) {
	s := newServer(t, options())
	for path, want := range map[string]string{
		"/":                           "1.0\n2021-07-15\n2024-04-11\nlatest",
		"/latest":                     "dynamic/\nmeta-data/",
		"/latest/":                    "dynamic/\nmeta-data/",
		"/latest/meta-data/iam/":      "info\nsecurity-credentials/",
		"/latest/meta-data/placement": "availability-zone\navailability-zone-id\nregion",
		"/latest/meta-data/placement/availability-zone/":                     "eu-west-1a",
		"/2021-07-15/meta-data/placement/region":                             "eu-west-1",
		"/1.0/meta-data/instance-id":                                         "i-0123456789abcdef0",
		"/latest/meta-data/iam/security-credentials":                         "host",
		"/latest/meta-data/iam/security-credentials/":                        "host",
		"/latest/meta-data/services/domain":                                  "amazonaws.com",
		"/latest/meta-data/network/interfaces/macs/":                         "0e:00:00:00:00:01/",
		"/latest/meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-id": "vpc-0123456789abcdef0",
		"/latest/meta-data/iam/security-credentials/host": `{
  "Code": "Success",
  "LastUpdated": "2026-11-22T12:00:00Z",
  "Type": "AWS-HMAC",
  "AccessKeyId": "ASIALAB",
  "SecretAccessKey": "secret",
  "Token": "token",
  "Expiration": "2026-11-22T13:00:00Z"
}`,
		"/latest/meta-data/iam/info": `{
  "Code": "Success",
  "LastUpdated": "2026-11-22T12:00:00Z",
  "InstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/host",
  "InstanceProfileId": "AIPA0123456789ABCDEFG"
}`,
	} {
		rec := do(t, s, "GET", path)
		if diff := cmp.Diff(want, rec.Body.String()); rec.Code != 200 || diff != "" {
			t.Errorf("GET %s: %d (-want +got):\n%s", path, rec.Code, diff)
		}
	}
	for _, path := range []string{
		"/latest/meta-data/iam/security-credentials/other", "/latest/meta-data/iam/security-credentials-extended/", "/latest/user-data",
		"/latest/meta-data/nothing", "/nothing", "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance", "/latest/api",
	} {
		if rec := do(t, s, "GET", path); rec.Code != 404 {
			t.Errorf("GET %s: %d, want 404", path, rec.Code)
		}
	}
	if rec := do(t, s, "POST", "/latest/meta-data/"); rec.Code != 405 {
		t.Errorf("POST: %d, want 405", rec.Code)
	}
}

func TestNotFoundPageIsEC2s(t *testing.T) {
	const want = `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>404 - Not Found</title>
 </head>
 <body>
  <h1>404 - Not Found</h1>
 </body>
</html>
`
	rec := do(t, newServer(t, options()), "GET", "/latest/nothing")
	if diff := cmp.Diff(want, rec.Body.String()); diff != "" || rec.Header().Get("Content-Type") != "text/html" {
		t.Errorf("Content-Type %q (-want +got):\n%s", rec.Header().Get("Content-Type"), diff)
	}
}

func TestInstanceWithoutRoleAndWithoutCredentials(t *testing.T) {
	o := options()
	o.Credentials = func() (imds.Credentials, error) { return imds.Credentials{AccessKeyID: "ASIA"}, errors.New("not now") }
	rec := do(t, newServer(t, o), "GET", "/latest/meta-data/iam/security-credentials/host")
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"Code": "AssumeRoleUnauthorizedAccess"`) || strings.Contains(rec.Body.String(), "AccessKeyId") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	o.RoleName = ""
	if rec := do(t, newServer(t, o), "GET", "/latest/meta-data/iam/security-credentials/"); rec.Code != 404 {
		t.Errorf("without a role: %d, want 404", rec.Code)
	}
}

func TestInstanceProfileIsTakenAwayAndAttached(t *testing.T) {
	s := newServer(t, options())
	for _, attached := range []bool{false, true} {
		s.SetRole(attached)
		if rec := do(t, s, "GET", "/latest/meta-data/iam/security-credentials/"); (rec.Code == http.StatusOK) != attached {
			t.Errorf("attached %v: %d %s", attached, rec.Code, rec.Body)
		}
	}
}

func TestDisabledEndpointIsForbidden(t *testing.T) {
	s := newServer(t, options())
	s.SetEnabled(false)
	for _, r := range [][2]string{{"GET", "/"}, {"PUT", "/latest/api/token"}, {"GET", "/latest/meta-data/iam/security-credentials/host"}} {
		if rec := do(t, s, r[0], r[1], ttl, "60"); rec.Code != 403 {
			t.Errorf("%s %s: %d, want 403", r[0], r[1], rec.Code)
		}
	}
}

func TestHopLimitIsOneToSixtyFour(t *testing.T) {
	s := newServer(t, options())
	if s.HopLimit() != 1 {
		t.Errorf("HopLimit = %d, want EC2's default, 1", s.HopLimit())
	}
	for n, want := range map[int]bool{-1: false, 0: false, 1: true, 2: true, 64: true, 65: false} {
		if err := s.SetHopLimit(n); (err == nil) != want {
			t.Errorf("SetHopLimit(%d) = %v", n, err)
		}
	}
}

// keeper is a listener that keeps what it accepted.
type keeper struct {
	net.Listener

	mu    sync.Mutex
	conns []*net.TCPConn
}

func (k *keeper) Accept() (net.Conn, error) {
	c, err := k.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.conns = append(k.conns, tcp)
	}
	return c, err
}

// hops reads the time-to-live back from the kernel.
func (k *keeper) hops(t *testing.T, level, option int) int {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	raw, err := k.conns[len(k.conns)-1].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var serr error
	if err := raw.Control(func(fd uintptr) { n, serr = unix.GetsockoptInt(int(fd), level, option) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return n
}

// The kernel is asked, since on one machine a low time-to-live has no effect; that it has one behind a router is
// shown where there is a router.
func TestPutResponseHasTheHopLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		network, listen, dial string
		level, option         int
	}{
		"ipv4":                   {"tcp4", "127.0.0.1:0", "127.0.0.1", unix.IPPROTO_IP, unix.IP_TTL},
		"ipv6":                   {"tcp6", "[::1]:0", "::1", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS},
		"ipv4_on_an_ipv6_socket": {"tcp", "[::]:0", "127.0.0.1", unix.IPPROTO_IP, unix.IP_TTL},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := new(net.ListenConfig).Listen(t.Context(), tc.network, tc.listen)
			if err != nil {
				if strings.Contains(tc.network, "6") && errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
					t.Logf("no IPv6 here: %v", err)
					return
				}
				t.Fatal(err)
			}
			k := &keeper{Listener: l}
			o := options()
			o.HopLimit = 2
			s := newServer(t, o)
			server, done := s.HTTPServer(s), make(chan struct{})
			go func() {
				defer close(done)
				_ = server.Serve(k)
			}()
			defer func() {
				_ = server.Close()
				<-done
			}()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort(tc.dial, port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			in := bufio.NewReader(c)
			for _, step := range []struct {
				request string
				limit   int // set before
				want    int
			}{
				{"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n" + ttl + ": 60\r\n\r\n", 2, 2},
				{"GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\n\r\n", 2, 64},
				{"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n" + ttl + ": 60\r\n\r\n", 1, 1},
				{"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n\r\n", 1, 1}, // 400
				{"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", 1, 64},
			} {
				if err := s.SetHopLimit(step.limit); err != nil {
					t.Fatal(err)
				}
				method, _, _ := strings.Cut(step.request, " ")
				if _, err := io.WriteString(c, step.request); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(in, &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if got := k.hops(t, tc.level, tc.option); got != step.want {
					t.Errorf("after %s: time-to-live %d, want %d", method, got, step.want)
				}
			}
		})
	}
}

func TestSDKReadsRegionAndRole(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	o := options()
	o.TokensRequired = true
	s := newServer(t, o)
	h := httptest.NewServer(s)
	defer h.Close()
	client := awsimds.New(awsimds.Options{Endpoint: h.URL, ClientEnableState: awsimds.ClientEnabled})
	region, err := client.GetRegion(t.Context(), nil)
	if err != nil || region.Region != "eu-west-1" {
		t.Errorf("GetRegion = %+v, %v", region, err)
	}
	doc, err := client.GetInstanceIdentityDocument(t.Context(), nil)
	if err != nil || doc.AccountID != "123456789012" || doc.InstanceID != "i-0123456789abcdef0" {
		t.Errorf("GetInstanceIdentityDocument = %+v, %v", doc, err)
	}
	info, err := client.GetIAMInfo(t.Context(), nil)
	if err != nil || info.InstanceProfileArn != "arn:aws:iam::123456789012:instance-profile/host" {
		t.Errorf("GetIAMInfo = %+v, %v", info, err)
	}
}

var page = regexp.MustCompile(`(?s)^<\?xml .*<h1>[0-9]{3} - [A-Za-z ]+</h1>\n </body>\n</html>\n$`)

// FuzzRequest: no token that the service did not issue is ever good, and no request makes it fail.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/latest/meta-data/iam/security-credentials/host", "INVALID", "60")
	f.Add("PUT", "/latest/api/token", "", "21600")
	f.Add("HEAD", "//latest//meta-data/../..", "AAAA", "-1")
	f.Fuzz(func(t *testing.T, method, path, tok, seconds string) {
		o := options()
		o.TokensRequired = true
		s := newServer(t, o)
		r := httptest.NewRequest(http.MethodGet, "http://imds.test/", nil)
		r.Method, r.URL.Path = method, path
		r.Header.Set(token, tok)
		r.Header.Set(ttl, seconds)
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		if rec.Code == 200 && (method != "PUT" || strings.Trim(path, "/") != "latest/api/token") {
			t.Errorf("%s %q with token %q: 200", method, path, tok)
		}
		if rec.Code >= 500 || rec.Code != 200 && !page.MatchString(rec.Body.String()) {
			t.Errorf("%s %q: %d %s", method, path, rec.Code, rec.Body)
		}
	})
}
