package docker_test

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const id = container.ID("3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee0001")

// engine serves the two calls the door makes, with the answers recorded from a real engine cut down to what matters;
// the real engines are in test/integration.
func engine(t *testing.T, list any) (host string, asked *[]string) {
	t.Helper()
	asked = new([]string)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.URL.RequestURI())
		w.Header().Set("Api-Version", "1.41")
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(list)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return "unix://" + l.Addr().String(), asked
}

func lookup(t *testing.T, host string, id container.ID) (container.Container, error) {
	t.Helper()
	e, err := docker.New(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e.Lookup(t.Context(), id)
}

func TestLookupTakesTheExactContainerAndOnlyLists(t *testing.T) {
	host, asked := engine(t, []map[string]any{
		{"Id": string(id) + "ff", "Names": []string{"/other"}, "Image": "evil"},
		{"Id": string(id), "Names": []string{"/app"}, "Image": "amazon/aws-cli", "Labels": map[string]string{"team": "data"}},
	})
	got, err := lookup(t, host, id)
	want := container.Container{ID: id, Name: "app", Image: "amazon/aws-cli", Labels: map[string]string{"team": "data"}, Known: true, Engine: "docker"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Lookup = %+v, %v; want %+v", got, err, want)
	}
	for _, a := range *asked {
		if !strings.Contains(a, "_ping") && !strings.Contains(a, "/containers/json?") {
			t.Errorf("the door made the call %s; only ping and list are safe while a container starts", a)
		}
	}
}

func TestLookupOfAStrangerIsNotKnown(t *testing.T) {
	host, _ := engine(t, []map[string]any{{"Id": string(id) + "ff", "Names": []string{"/other"}, "Image": "evil"}})
	got, err := lookup(t, host, id)
	if want := (container.Container{ID: id}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Lookup = %+v, %v; want %+v", got, err, want)
	}
}

func TestLookupWithoutAnEngineIsAFault(t *testing.T) {
	_, err := lookup(t, "unix:///nonexistent/docker.sock", id)
	if got := fault.CodeOf(err); got != fault.EngineUnreachable {
		t.Errorf("Lookup = %v, code %q; want %q", err, got, fault.EngineUnreachable)
	}
}
