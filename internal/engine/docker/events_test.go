package docker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"

	"github.com/google/go-cmp/cmp"
)

// stream serves the events in text, and leaves the connection open if hold is true. asked gets each query.
func stream(t *testing.T, status int, text string, hold bool) (e *docker.Engine, asked chan url.Values) {
	t.Helper()
	asked = make(chan url.Values, 10)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if !strings.HasSuffix(r.URL.Path, "/events") {
			return
		}
		asked <- r.URL.Query()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		w.(http.Flusher).Flush()
		if hold {
			<-r.Context().Done()
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	if e, err = docker.New("unix://" + l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, asked
}

const happened = `{"status":"create","id":"` + string(id) + `","Type":"container","Action":"create","Actor":{"ID":"` + string(id) + `","Attributes":{"taskrole":"reader"}},"scope":"local","time":1,"timeNano":1}
{"Type":"container","Action":"start","Actor":{"ID":"../../etc","Attributes":{}}}
{"Type":"container","Action":"start","Actor":{"ID":"` + string(id) + `","Attributes":{}}}
`

func TestFollowTellsWhatHappensInOrderAndThatTheEngineIsGone(t *testing.T) {
	e, asked := stream(t, http.StatusOK, happened, false)
	var got []docker.Event
	connected := 0
	err := e.Follow(t.Context(), "taskrole", func() { connected++ }, func(ev docker.Event) {
		if connected != 1 {
			t.Errorf("an event after %d connections, want 1", connected)
		}
		got = append(got, ev)
	})
	if fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("the stream's end: %v", err)
	}
	if d := cmp.Diff([]docker.Event{{docker.Created, id}, {docker.Started, id}}, got); d != "" {
		t.Error(d)
	}
	q := <-asked
	for _, want := range []string{`"taskrole":true`, `"container":true`, `"start":true`, `"create":true`, `"destroy":true`, `"die":true`} {
		if !strings.Contains(q.Get("filters"), want) {
			t.Errorf("filters %s lack %s", q.Get("filters"), want)
		}
	}
	if q.Get("since") == "" {
		t.Error("what happens between the engine's answer and its listening is not asked for")
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	e, _ := stream(t, http.StatusOK, happened, true)
	ctx, cancel := context.WithCancel(t.Context())
	err := e.Follow(ctx, "taskrole", func() {}, func(ev docker.Event) {
		if ev.Kind == docker.Started {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v", err)
	}
}

func TestFollowWithoutAnEngineNeverConnects(t *testing.T) {
	refuses, _ := stream(t, http.StatusInternalServerError, `{"message":"no"}`, false)
	absent, err := docker.New("unix:///nonexistent/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*docker.Engine{"refuses": refuses, "absent": absent} {
		err := e.Follow(t.Context(), "taskrole", func() { t.Errorf("%s: connected", name) }, func(docker.Event) {})
		if fault.CodeOf(err) != fault.EngineUnreachable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLabelledSaysWhoRunsAndTakesNoIDThatIsNone(t *testing.T) {
	second := id[:63] + "2"
	host, asked := engine(t, []map[string]any{{"Id": string(id), "State": "paused"}, {"Id": "../../etc", "State": "running"}, {"Id": string(second), "State": "created"}})
	e, err := docker.New(host)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got, err := e.Labelled(t.Context(), "taskrole")
	if d := cmp.Diff([]docker.Labelled{{ID: id, Running: true}, {ID: second}}, got); d != "" || err != nil {
		t.Error(err, d)
	}
	if q := (*asked)[len(*asked)-1]; !strings.Contains(q, "label") || !strings.Contains(q, "all=1") {
		t.Errorf("asked %s; want the label, and also those that do not run", q)
	}
}

func TestPIDIsOfThisContainerAndOnlyWhileItRuns(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		pid    int
		code   fault.Code
	}{
		"runs":    {http.StatusOK, `{"Id":"` + string(id) + `","State":{"Running":true,"Pid":4711}}`, 4711, ""},
		"ended":   {http.StatusOK, `{"Id":"` + string(id) + `","State":{"Running":false,"Pid":4711}}`, 0, ""},
		"another": {http.StatusOK, `{"Id":"` + string(id[:63]) + `2","State":{"Running":true,"Pid":4711}}`, 0, fault.EngineUnreachable},
		"half":    {http.StatusOK, `{"Id":"` + string(id) + `"}`, 0, fault.EngineUnreachable},
		"broken":  {http.StatusInternalServerError, `{"message":"no"}`, 0, fault.EngineUnreachable},
	} {
		e, _ := running(t, c.status, c.body)
		pid, err := e.PID(t.Context(), id)
		if pid != c.pid || fault.CodeOf(err) != c.code {
			t.Errorf("%s: %d, %v", name, pid, err)
		}
	}
}

func TestHookedIsWhoAsksByAnotherWay(t *testing.T) {
	inspected := func(config, host string) string {
		return `{"Id":"` + string(id) + `","Config":` + config + `,"HostConfig":` + host + `}`
	}
	for name, c := range map[string]struct {
		body string
		want bool
		code fault.Code
	}{
		"plain":    {inspected(`{"Env":["PATH=/bin","MY_TASKROLE=x"]}`, `{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["nvidia.com/gpu=0"]}],"Devices":[{"PathOnHost":"/dev/kvm"}]}`), false, ""},
		"cdi":      {inspected(`{}`, `{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["nvidia.com/gpu=0","taskrole/role=reader"]}]}`), true, ""},
		"device":   {inspected(`{}`, `{"Devices":[{"PathOnHost":"taskrole/role=reader"}]}`), true, ""},
		"variable": {inspected(`{"Env":["TASKROLE=reader"]}`, `{}`), true, ""},
		"half":     {`{"Id":"` + string(id) + `","Config":{}}`, false, fault.EngineUnreachable},
		"another":  {strings.Replace(inspected(`{}`, `{}`), string(id), string(id[:63])+"2", 1), false, fault.EngineUnreachable},
	} {
		e, _ := running(t, http.StatusOK, c.body)
		got, err := e.Hooked(t.Context(), id)
		if got != c.want || fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
