package endpoint_test

import (
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/container"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// Whatever is asked: an answer that is no 5xx except 503, no redirect, and never the body of another container.
func FuzzRequest(f *testing.F) {
	f.Add(byte(0), "GET", "/v2/credentials/app", "169.254.170.2", "", "", false)
	f.Add(byte(1), "GET", "/latest/meta-data/iam/security-credentials/x", "169.254.169.254", "INVALID", "", false)
	f.Add(byte(1), "PUT", "/latest/api/token", "169.254.169.254", "", "21600", true)
	f.Add(byte(2), "HEAD", "//latest//", "[fd00:ec2::254]", "", "", false)
	f.Add(byte(3), "CONNECT", "", "a:443", "", "", false)
	f.Add(byte(4), "GET", "/v1/credentials", "169.254.170.23", "", "", false)
	f.Add(byte(5), "GET", "//v1/credentials/", "127.0.0.1:61171", "", "", true)
	f.Add(byte(0), "GET", "/%2e%2e/\x00", "", "", "", true)
	key := endpoint.NewTokenKey()
	handler := func(id container.ID, mode endpoint.Mode, keyID string, err error) http.Handler {
		c := theCredentials()
		c.AccessKeyID = keyID
		return endpoint.New(endpoint.Options{
			Container: container.Container{ID: id}, Role: "app", RoleARN: theRole, Region: "eu-west-1", IMDS: mode, Tokens: key,
			Credentials: func() (secret.Credentials, error) { return c, err },
		})
	}
	ours := map[bool]http.Handler{
		false: handler(theID, endpoint.V1AndV2, "ASIAOURS", nil),
		true:  handler(theID, endpoint.V2Only, "ASIAOURS", fault.New(fault.CredentialsNotReady, "not yet", "")),
	}
	dests := []netip.AddrPort{address.ECS, address.IMDS, address.IMDS6, address.Proxy, address.PodIdentity, address.FullURI}
	f.Fuzz(func(t *testing.T, dest byte, method, path, host, token, ttl string, broken bool) {
		if method == "" || len(path) > 1<<16 {
			return
		}
		local := net.TCPAddrFromAddrPort(dests[int(dest)%len(dests)])
		r := (&http.Request{
			Method: method, URL: &url.URL{Path: path}, Host: host, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(contextWithLocal(t.Context(), local))
		if token != "" {
			r.Header.Set(tokenHdr, token)
		}
		if ttl != "" {
			r.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", ttl)
		}
		rec := httptest.NewRecorder()
		ours[broken].ServeHTTP(rec, r)
		body := rec.Body.String()
		switch {
		case rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable, rec.Code >= 300 && rec.Code < 400, rec.Code < 200:
			t.Errorf("status %d", rec.Code)
		case strings.Contains(body, "SecretAccessKey") && (rec.Code != http.StatusOK || broken || !strings.Contains(body, "ASIAOURS")):
			t.Errorf("keys in an answer with status %d", rec.Code)
		case method != http.MethodHead && rec.Header().Get("Content-Length") == "":
			t.Error("no Content-Length")
		}
	})
}

// A token is valid exactly if we minted it, for this container and this time.
func FuzzToken(f *testing.F) {
	key := endpoint.NewTokenKey()
	now := time.Unix(1_700_000_000, 0)
	good := key.Mint(theID, now.Add(time.Minute))
	f.Add(good)
	f.Add("")
	f.Add("INVALID")
	f.Add(good + "=")
	f.Add(good[:len(good)-1] + "\n")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 48)))
	f.Fuzz(func(t *testing.T, token string) {
		if key.Valid(theID, token, now) != (token == good) {
			t.Errorf("Valid(%q) = %v", token, token != good)
		}
		if key.Valid("other", token, now) || key.Valid(theID, token, now.Add(time.Minute)) {
			t.Errorf("%q is valid elsewhere", token)
		}
	})
}
