package endpoint_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
)

// task is metadata below /v4/.
type task struct{ err error }

func (task) Has(path string) bool { return strings.HasPrefix(path, "/v4/") }

func (t task) Document(_ context.Context, path string) ([]byte, error) {
	return []byte(`{"path":"` + path + `"}`), t.err
}

func TestTaskMetadataAreServedAtTheAddressOfECSOnly(t *testing.T) {
	w := newWorld(t, func(o *endpoint.Options) {
		o.Task, o.IMDS, o.Authorization = task{}, endpoint.V1AndV2, endpoint.NewTokenKey().Authorization("app")
	})
	// No token is needed: nothing in them is secret, and collectors have none to send.
	a := w.do(http.MethodGet, ecsURL+"//v4/app/task/")
	if a.status != http.StatusOK || a.body != `{"path":"/v4/app/task"}` || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	for _, u := range []string{imdsURL + "/v4/app/task", "http://169.254.170.23/v4/app/task", "http://127.0.0.1:61171/v4/app/task"} {
		if a := w.do(http.MethodGet, u); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", u, a.status, a.body)
		}
	}
	if a := w.do(http.MethodGet, ecsURL+"/v4/app", "Host", "evil.example"); a.status != http.StatusBadRequest {
		t.Errorf("under another name: %d", a.status)
	}
	if a := w.do(http.MethodPost, ecsURL+"/v4/app"); a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", a.status)
	}
}

func TestTaskMetadataThatAreNotThere(t *testing.T) {
	w := newWorld(t, nil)
	if a := w.do(http.MethodGet, ecsURL+"/v4/app/task"); a.status != http.StatusNotFound {
		t.Errorf("of a role without: %d %s", a.status, a.body)
	}
	w = newWorld(t, func(o *endpoint.Options) {
		o.Task = task{fault.New(fault.EngineUnreachable, "the engine does not answer", "try again in a moment")}
	})
	a := w.do(http.MethodGet, ecsURL+"/v4/app/task")
	if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"message":"the engine does not answer: try again in a moment"`) {
		t.Errorf("while the engine is away: %d %s", a.status, a.body)
	}
	if a := w.do(http.MethodGet, credsURL); a.status != http.StatusOK {
		t.Errorf("the credentials meanwhile: %d", a.status)
	}
}
