package endpoint_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// private asks a private endpoint.
func private(t *testing.T, o endpoint.PrivateOptions, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:4711"+endpoint.PrivatePath, nil)
	r.Header.Set("Authorization", o.Authorization.Reveal())
	change(r)
	w := httptest.NewRecorder()
	endpoint.NewPrivate(o).ServeHTTP(w, r)
	return w
}

func privateOptions(life time.Duration) endpoint.PrivateOptions {
	return endpoint.PrivateOptions{
		Authorization: secret.New("the-token"),
		Credentials: func() (secret.Credentials, error) {
			return secret.Credentials{
				AccessKeyID: "ASIAPRIVATE", SecretAccessKey: secret.New("k"), SessionToken: secret.New("t"), Expires: time.Now().Add(life),
				AccountID: "123456789012", RoleARN: "arn:aws:iam::123456789012:role/x",
			}, nil
		},
	}
}

func TestPrivateEndpointAnswersOnlyWhoHasTheToken(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		code   fault.Code // "" where the document is the answer
	}{
		"the SDK":          {func(*http.Request) {}, http.StatusOK, ""},
		"localhost":        {func(r *http.Request) { r.Host = "localhost:4711" }, http.StatusOK, ""},
		"no token":         {func(r *http.Request) { r.Header.Del("Authorization") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"empty token":      {func(r *http.Request) { r.Header.Set("Authorization", "") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"another token":    {func(r *http.Request) { r.Header.Set("Authorization", "the-tokem") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"a longer token":   {func(r *http.Request) { r.Header.Set("Authorization", "the-token2") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"a scheme":         {func(r *http.Request) { r.Header.Set("Authorization", "Bearer the-token") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"two tokens":       {func(r *http.Request) { r.Header.Add("Authorization", "the-token") }, http.StatusForbidden, fault.AuthorizationInvalid},
		"a rebound name":   {func(r *http.Request) { r.Host = "attacker.example:4711" }, http.StatusBadRequest, fault.RequestInvalid},
		"metadata service": {func(r *http.Request) { r.URL.Path = "/latest/meta-data/iam/security-credentials/" }, http.StatusNotFound, fault.NotFound},
		"the ECS path":     {func(r *http.Request) { r.URL.Path = "/v2/credentials/x" }, http.StatusNotFound, fault.NotFound},
		"POST":             {func(r *http.Request) { r.Method = http.MethodPost }, http.StatusMethodNotAllowed, fault.MethodNotAllowed},
	} {
		w := private(t, privateOptions(time.Hour), c.change)
		served := strings.Contains(w.Body.String(), "ASIAPRIVATE")
		if w.Code != c.status || served != (c.code == "") || !strings.Contains(w.Body.String(), string(c.code)) {
			t.Errorf("%s: %d %s, want %d %s", name, w.Code, w.Body, c.status, c.code)
		}
	}
}

func TestPrivateEndpointWithoutATokenLetsNobodyIn(t *testing.T) {
	o := privateOptions(time.Hour)
	o.Authorization = secret.Value{}
	for _, token := range []string{"", "x"} {
		if w := private(t, o, func(r *http.Request) { r.Header.Set("Authorization", token) }); w.Code != http.StatusForbidden {
			t.Errorf("token %q: %d %s", token, w.Code, w.Body)
		}
	}
}

func TestPrivateEndpointNeverServesWhatHasExpired(t *testing.T) {
	w := private(t, privateOptions(-time.Second), func(*http.Request) {})
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "ASIAPRIVATE") {
		t.Errorf("%d %s, want 503 with a sentence", w.Code, w.Body)
	}
}
