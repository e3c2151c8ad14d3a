package instancerole_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"taskrole/internal/fault"
	"taskrole/internal/instancerole"
	"taskrole/lab/imds"
)

var end = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// fetch asks the service h, which is on 127.0.0.1. Nothing link-local is asked.
func fetch(t *testing.T, h http.Handler, v1 bool) (key, token, region string, err error) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	c, region, err := instancerole.Fetch(t.Context(), instancerole.Options{V1: v1, Getenv: func(name string) string {
		if name == "AWS_EC2_METADATA_SERVICE_ENDPOINT" {
			return s.URL
		}
		return ""
	}})
	if err == nil && (!c.Complete() || !c.Expires.Equal(end) || c.AccessKeyID != "ASIAHOST") {
		t.Errorf("Fetch = %+v", c)
	}
	if err != nil && (c.AccessKeyID != "" || !c.SecretAccessKey.Empty() || !c.SessionToken.Empty()) {
		t.Errorf("Fetch = %v with a part of the credentials", err)
	}
	return c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), region, err
}

func labIMDS(t *testing.T, role string, tokens bool) *imds.Server {
	t.Helper()
	s, err := imds.New(imds.Options{
		Region: "eu-west-1", AccountID: "123456789012", InstanceID: "i-0123", PrivateIP: "10.0.0.9", TokensRequired: tokens, RoleName: role, HopLimit: 2,
		Credentials: func() (imds.Credentials, error) {
			return imds.Credentials{AccessKeyID: "ASIAHOST", SecretAccessKey: "the-key", Token: "the-token", Expires: end}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVersion2GivesEverything(t *testing.T) {
	key, token, region, err := fetch(t, labIMDS(t, "host-role", true), false)
	if err != nil || key != "the-key" || token != "the-token" || region != "eu-west-1" {
		t.Errorf("Fetch = %q, %q, %q, %v", key, token, region, err)
	}
}

// onlyV1 is a service, or something that forwards to one, that knows no session tokens.
func onlyV1(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func TestVersion1OnlyWhenToldTo(t *testing.T) {
	service := onlyV1(labIMDS(t, "host-role", false))
	_, _, _, err := fetch(t, service, false)
	if f := fault.As(err); err == nil || f.Code != fault.SourceUnavailable || !strings.Contains(f.Hint, "--imdsv1") {
		t.Errorf("Fetch = %v, want a hint to --imdsv1", err)
	}
	if key, _, _, err := fetch(t, service, true); err != nil || key != "the-key" {
		t.Errorf("Fetch with version 1 = %q, %v", key, err)
	}
	_, _, _, err = fetch(t, onlyV1(labIMDS(t, "host-role", true)), true)
	if fault.CodeOf(err) != fault.SourceUnavailable || !strings.Contains(err.Error(), "wants version 2") {
		t.Errorf("Fetch with version 1 from a service that wants tokens = %v", err)
	}
}

func TestInstanceWithoutAProfile(t *testing.T) {
	_, _, _, err := fetch(t, labIMDS(t, "", true), false)
	if fault.CodeOf(err) != fault.SourceUnavailable || !strings.Contains(err.Error(), "no instance profile") {
		t.Errorf("Fetch = %v", err)
	}
}

// answers is a service that answers each path with a fixed text, and everything else with 404.
func answers(by map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := by[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(body))
	})
}

func TestHostileAndBrokenAnswersAreErrors(t *testing.T) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	whole := `{"Code":"Success","AccessKeyId":"ASIAHOST","SecretAccessKey":"the-key","Token":"the-token","Expiration":"2026-11-02T09:00:00Z"}`
	document := func(body string) http.Handler {
		return answers(map[string]string{"/latest/api/token": "t", roles: "r", roles + "r": body})
	}
	if _, _, _, err := fetch(t, document(whole), false); err != nil {
		t.Fatalf("the good answer: %v", err)
	}
	for name, h := range map[string]http.Handler{
		"no key":        document(strings.Replace(whole, "the-key", "", 1)),
		"no token":      document(strings.Replace(whole, "the-token", "", 1)),
		"no id":         document(strings.Replace(whole, "ASIAHOST", "", 1)),
		"no end":        document(strings.Replace(whole, `,"Expiration":"2026-11-02T09:00:00Z"`, "", 1)),
		"failed":        document(strings.Replace(whole, "Success", "Failed", 1)),
		"no code":       document(strings.Replace(whole, "Success", "", 1)),
		"html":          document("<html>the-key</html>"),
		"half":          document(whole[:60]),
		"too long":      document(whole + strings.Repeat(" ", 20<<10)),
		"role escapes":  answers(map[string]string{"/latest/api/token": "t", roles: "../../user-data"}),
		"role is html":  answers(map[string]string{"/latest/api/token": "t", roles: "<html>"}),
		"token invalid": answers(map[string]string{"/latest/api/token": "a\nb", roles: "r", roles + "r": whole}),
		"redirect":      http.RedirectHandler("http://127.0.0.1:1/elsewhere", http.StatusFound),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := fetch(t, h, false)
			f := fault.As(err)
			if err == nil || f.Code != fault.SourceUnavailable || f.Hint == "" {
				t.Errorf("Fetch = %v, want %s", err, fault.SourceUnavailable)
			}
			if text := fmt.Sprintf("%v %+v", err, f.Err); strings.Contains(text, "the-key") || strings.Contains(text, "the-token") {
				t.Errorf("the secrets are in the error: %s", text)
			}
		})
	}
}

func TestTheServicesSettingsAreHonoured(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		code fault.Code
	}{
		"disabled":     {map[string]string{"AWS_EC2_METADATA_DISABLED": "True", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}, fault.SourceUnavailable},
		"nobody there": {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}, fault.SourceUnavailable},
		"a name":       {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://metadata.example"}, fault.Usage},
		"a path":       {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1/latest"}, fault.Usage},
		"https":        {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "https://127.0.0.1:1"}, fault.Usage},
		"nonsense":     {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://%"}, fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := instancerole.Fetch(t.Context(), instancerole.Options{Getenv: func(name string) string { return c.env[name] }})
			if fault.CodeOf(err) != c.code {
				t.Errorf("Fetch = %v, want %s", err, c.code)
			}
		})
	}
}

func TestAServiceThatHangsIsGivenUp(t *testing.T) {
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer s.Close()
	defer close(done)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := instancerole.Fetch(ctx, instancerole.Options{Getenv: func(name string) string {
		return map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": s.URL}[name]
	}})
	if fault.CodeOf(err) != fault.SourceUnavailable {
		t.Errorf("Fetch = %v", err)
	}
}
