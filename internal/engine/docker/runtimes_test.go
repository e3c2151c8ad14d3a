package docker_test

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"
)

// survey serves a list of containers and what the engine says of each; one that it does not know has gone meanwhile.
func survey(t *testing.T, list []map[string]any, inspect map[string]any) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			if r.URL.Query().Get("all") != "1" {
				t.Errorf("asked for %s, want those that are stopped too", r.URL)
			}
			_ = json.NewEncoder(w).Encode(list)
			return
		}
		for id, answer := range inspect {
			if strings.HasSuffix(r.URL.Path, "/containers/"+id+"/json") {
				_ = json.NewEncoder(w).Encode(answer)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": "No such container"})
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return "unix://" + l.Addr().String()
}

func byRuntime(t *testing.T, host string) ([]string, error) {
	t.Helper()
	e, err := docker.New(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e.ByRuntime(t.Context(), "taskrole")
}

func TestByRuntimeNamesThoseThatTheRuntimeStarts(t *testing.T) {
	runtime := func(name string) any { return map[string]any{"HostConfig": map[string]any{"Runtime": name}} }
	host := survey(t, []map[string]any{
		{"Id": "a0", "Names": []string{"/web"}},
		{"Id": "a1", "Names": []string{"/plain"}},
		{"Id": "a2"},
		{"Id": "a3", "Names": []string{"/gone"}},
		{"Id": "a4", "Names": []string{"/odd"}},
	}, map[string]any{"a0": runtime("taskrole"), "a1": runtime("runc"), "a2": runtime("taskrole"), "a4": map[string]any{}})
	got, err := byRuntime(t, host)
	if want := []string{"web", "a2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("ByRuntime = %q, %v; want %q", got, err, want)
	}
}

func TestByRuntimeOfAnEngineThatIsNotThereIsAFault(t *testing.T) {
	if names, err := byRuntime(t, "unix://"+filepath.Join(t.TempDir(), "none")); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("ByRuntime = %q, %v", names, err)
	}
}
