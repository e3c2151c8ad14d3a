package podman_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/engine/podman"
	"taskrole/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const id = container.ID("471858b5abd52552c766c3583344a47dad0b806e27e05a35766df3af8e9ff799")

// line is one event as Podman 5.8 writes it.
func line(t *testing.T, kind string, of container.ID, attributes map[string]string) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"status": "create", "id": of, "Type": kind, "Action": "create", "scope": "local", "time": 1795643303,
		"Actor": map[string]any{"ID": of, "Attributes": attributes},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// service answers questions about events, those of the last hour and all, and about images.
type service struct {
	recent, all, images string
	status              int
}

func (s service) start(t *testing.T) (e *podman.Engine, asked *[]string) {
	t.Helper()
	asked = new([]string)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.URL.Path)
		w.WriteHeader(max(http.StatusOK, s.status))
		answer := s.all
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/json"):
			answer = s.images
		case r.URL.Query().Has("since"):
			answer = s.recent
		}
		_, _ = io.WriteString(w, answer)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	if e, err = podman.New("unix://" + l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, asked
}

func TestLookupReadsEventsAndNeverTheContainer(t *testing.T) {
	first := line(t, "container", id, map[string]string{"name": "app", "image": "localhost/app:1", "podId": ""})
	e, asked := service{recent: first + line(t, "container", id, map[string]string{"name": "renamed", "image": "localhost/app:1"})}.start(t)
	got, err := e.Lookup(t.Context(), id)
	want := container.Container{ID: id, Name: "renamed", Image: "localhost/app:1", Known: true, Engine: "podman"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Lookup = %+v, %v; want %+v", got, err, want)
	}
	if diff := cmp.Diff([]string{"GET /v4.0.0/libpod/events"}, *asked); diff != "" {
		t.Errorf("everything else may wait for the start's lock: %s", diff)
	}
	e, _ = service{all: first}.start(t) // made long before it is started
	if got, err := e.Lookup(t.Context(), id); err != nil || got.Name != "app" {
		t.Errorf("Lookup = %+v, %v", got, err)
	}
}

func TestOthersEventsAreNotTheContainers(t *testing.T) {
	e, _ := service{recent: line(t, "container", id+"ff", map[string]string{"name": "longer", "image": "evil"}) +
		line(t, "container", "0f", map[string]string{"name": string(id), "image": "evil"}) +
		line(t, "pod", id, map[string]string{"name": "pod", "image": "evil"}) +
		line(t, "container", id, map[string]string{"image": "evil"})}.start(t)
	if got, err := e.Lookup(t.Context(), id); err != nil || !cmp.Equal(got, container.Container{ID: id}) {
		t.Errorf("Lookup = %+v, %v; want that it is not known", got, err)
	}
}

// An image brings labels along, and whoever made it chose them: they must not choose the role too.
func TestLabelsOfAnyImageAreNotTheContainers(t *testing.T) {
	s := service{
		recent: line(t, "container", id, map[string]string{
			"name": "app", "image": "app", "team": "data", "tier": "prod", "maintainer": "evil", "podId": "x", "containerExitCode": "0",
		}),
		images: `[{"Labels":null},{"Labels":{"maintainer":"evil","team":"other"}},{"Labels":{"tier":"prod"}}]`,
	}
	e, _ := s.start(t)
	got, err := e.Lookup(t.Context(), id)
	if diff := cmp.Diff(map[string]string{"team": "data"}, got.Labels); err != nil || diff != "" {
		t.Errorf("%v, labels: %s", err, diff)
	}
	s.images = "{"
	e, _ = s.start(t)
	if got, err := e.Lookup(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable || got.Known || len(got.Labels) > 0 {
		t.Errorf("without the images: %+v, %v", got, err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, s := range map[string]service{
		"an error":     {status: http.StatusInternalServerError},
		"not JSON":     {recent: "\x00"},
		"half a line":  {recent: `{"Type":"container","Actor":{`},
		"without end":  {recent: strings.Repeat(" ", 9<<20)},
		"another type": {recent: `{"Type":7}`},
	} {
		e, _ := s.start(t)
		if got, err := e.Lookup(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable || got.Known {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	e, err := podman.New("unix:///nonexistent/podman.sock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Lookup(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("without a service: %v", err)
	}
	if _, err := podman.New("tcp://127.0.0.1:1"); err == nil {
		t.Error("a service on the network is accepted")
	}
}
