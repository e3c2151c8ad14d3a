package endpoint_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/google/go-cmp/cmp"

	"taskrole/internal/endpoint"
	"taskrole/internal/secret"
)

// golden compares a body with testdata/NAME.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-golden +got):\n%s", name, d)
	}
}

func TestPodIdentityAndFullURIGiveTheDocumentOfTheContainerEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	w.mu.Lock()
	w.creds.Expires = time.Date(2199, 1, 2, 3, 4, 5, 0, time.UTC)
	w.mu.Unlock()
	want := w.do(http.MethodGet, credsURL)
	golden(t, "container.json", want.body)
	for _, u := range []string{podURL, podURL + "/", pod6URL, fullURL, strings.Replace(fullURL, "/v1", "//v1", 1)} {
		a := w.do(http.MethodGet, u, "Authorization", "whatever an image sets")
		if a.status != http.StatusOK || a.body != want.body || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", u, a.status, a.body)
		}
	}
}

func TestPodIdentityChecksTheHost(t *testing.T) {
	w := newWorld(t, nil)
	for host, want := range map[string]int{
		"169.254.170.23": 200, "169.254.170.23:80": 200, "[fd00:ec2::23]": 200, "localhost": 200, "127.0.0.1:61171": 200,
		"evil.example": 400, "169.254.170.2": 400, "169.254.170.23.evil.example": 400,
	} {
		for _, u := range []string{podURL, pod6URL, fullURL} {
			if a := w.do(http.MethodGet, u, "Host", host); a.status != want || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s as %s: %d %s", u, host, a.status, a.body)
			}
		}
	}
}

func TestTheTokenIsNeededAtEveryContainerAddress(t *testing.T) {
	token := endpoint.NewTokenKey().Authorization("app")
	w := newWorld(t, func(o *endpoint.Options) { o.Authorization = token })
	right := token.Reveal()
	for _, u := range []string{credsURL, podURL, pod6URL, fullURL} {
		if a := w.do(http.MethodGet, u, "Authorization", right); a.status != http.StatusOK {
			t.Errorf("%s with the token: %d %s", u, a.status, a.body)
		}
		for name, headers := range map[string][]string{
			"none": nil, "empty": {"Authorization", ""}, "a_scheme": {"Authorization", "Bearer " + right},
			"cut": {"Authorization", right[1:]}, "more": {"Authorization", right + "A"}, "two": {"Authorization", right, "Authorization", right},
			"another_role's": {"Authorization", endpoint.NewTokenKey().Authorization("app").Reveal()}, "elsewhere": {tokenHdr, right},
		} {
			a := w.do(http.MethodGet, u, headers...)
			if a.status != http.StatusForbidden || !strings.Contains(a.body, "authorization-invalid") || strings.Contains(a.body, "ASIA") {
				t.Errorf("%s, %s: %d %s", u, name, a.status, a.body)
			}
		}
	}
	// The metadata service has tokens of its own: a docker exec shell has no environment, and must find the role.
	if a := w.get(rolesURL + "task-app"); a.status != http.StatusOK {
		t.Errorf("IMDS: %d", a.status)
	}
	golden(t, "authorization-invalid.json", w.do(http.MethodGet, fullURL).body)
}

func TestTheTokenIsOfOneRoleAndOneKeyAndFitsAHeader(t *testing.T) {
	key := endpoint.NewTokenKey()
	kept, err := endpoint.FromSecret(secret.New(key.Secret().Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	token := key.Authorization("app")
	if !kept.Authorization("app").Equal(token) {
		t.Error("another token after a restart with the same key")
	}
	if key.Authorization("apq").Equal(token) || endpoint.NewTokenKey().Authorization("app").Equal(token) {
		t.Error("the same token for another role or another key")
	}
	if s := token.Reveal(); len(s) < 40 || strings.ContainsAny(s, "\r\n =:,\"") {
		t.Errorf("%d characters, or one that a client may refuse", len(s))
	}
}

func TestGoSDKSendsTheToken(t *testing.T) {
	token := endpoint.NewTokenKey().Authorization("app")
	w := newWorld(t, func(o *endpoint.Options) { o.Authorization = token })
	for _, u := range []string{podURL, pod6URL, fullURL} {
		p := endpointcreds.New(u, func(o *endpointcreds.Options) { o.HTTPClient, o.AuthorizationToken = w.http, token.Reveal() })
		checkCredentials(t, p, endpointcreds.ProviderName)
		p = endpointcreds.New(u, func(o *endpointcreds.Options) { o.HTTPClient = w.http })
		if _, err := p.Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "authorization-invalid: the Authorization header is not") {
			t.Errorf("without: the SDK says %v", err)
		}
	}
}
