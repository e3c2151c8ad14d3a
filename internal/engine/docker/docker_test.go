package docker_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"

	"github.com/google/go-cmp/cmp"
)

const id = container.ID("3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee0001")

const imageID = "sha256:0123456789abcdef"

// engine serves the calls the door makes, with the answers recorded from a real engine cut down to what matters;
// the real engines are in test/integration.
func engine(t *testing.T, list any) (host string, asked *[]string) {
	t.Helper()
	return engineWithImage(t, list, http.StatusNotFound, nil)
}

// engineWithImage also knows what image the container is made of.
func engineWithImage(t *testing.T, list any, status int, image any) (host string, asked *[]string) {
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
		if strings.HasSuffix(r.URL.Path, "/images/"+imageID+"/json") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(image)
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
		{"Id": string(id), "Names": []string{"/app"}, "Image": "amazon/aws-cli", "HostConfig": map[string]any{"NetworkMode": "default"}},
	})
	got, err := lookup(t, host, id)
	want := container.Container{ID: id, Name: "app", Image: "amazon/aws-cli", Network: "bridge", Known: true, Engine: "docker"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Lookup = %+v, %v; want %+v", got, err, want)
	}
	for _, a := range *asked {
		if !strings.Contains(a, "_ping") && !strings.Contains(a, "/containers/json?") && !strings.Contains(a, "/images/") {
			t.Errorf("the door made the call %s; only ping, list and questions about images are safe while a container starts", a)
		}
	}
}

// An image brings labels along, and whoever made it chose them: they must not choose the role too.
func TestLabelsOfTheImageAreNotTheContainers(t *testing.T) {
	list := []map[string]any{{
		"Id": string(id), "Names": []string{"/app"}, "Image": "evil", "ImageID": imageID,
		"Labels": map[string]string{"team": "data", "maintainer": "evil", "tier": "prod"},
	}}
	image := func(labels map[string]string) any {
		return map[string]any{"Id": imageID, "Config": map[string]any{"Labels": labels}}
	}
	for name, c := range map[string]struct {
		status int
		image  any
		want   map[string]string
	}{
		"of the image and of the user": {http.StatusOK, image(map[string]string{"team": "data", "maintainer": "evil"}), map[string]string{"tier": "prod"}},
		"overridden by the user":       {http.StatusOK, image(map[string]string{"team": "none", "maintainer": "evil", "tier": "prod"}), map[string]string{"team": "data"}},
		"an image without":             {http.StatusOK, image(nil), map[string]string{"team": "data", "maintainer": "evil", "tier": "prod"}},
		"an image without anything":    {http.StatusOK, map[string]any{"Id": imageID}, map[string]string{"team": "data", "maintainer": "evil", "tier": "prod"}},
		"an image that is gone":        {http.StatusNotFound, map[string]string{"message": "no such image"}, nil},
		"an engine that is broken":     {http.StatusInternalServerError, map[string]string{"message": "broken"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			host, _ := engineWithImage(t, list, c.status, c.image)
			got, err := lookup(t, host, id)
			want := container.Container{ID: id, Name: "app", Image: "evil", Labels: c.want, Known: true, Engine: "docker"}
			if err != nil || !cmp.Equal(got, want) {
				t.Errorf("Lookup = %+v, %v; want %+v", got, err, want)
			}
		})
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

func TestAddressesAreNamed(t *testing.T) {
	host, _ := engine(t, []any{
		map[string]any{"Id": id, "Names": []string{"/web"}, "NetworkSettings": map[string]any{"Networks": map[string]any{
			"bridge": map[string]any{"IPAddress": "172.17.0.2", "GlobalIPv6Address": "fd00::2"},
			"host":   map[string]any{"IPAddress": ""},
		}}},
		map[string]any{"Id": "x"},
	})
	e, err := docker.New(host)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got, err := e.Addresses(t.Context())
	if err != nil || len(got) != 2 || got[netip.MustParseAddr("172.17.0.2")] != "web" || got[netip.MustParseAddr("fd00::2")] != "web" {
		t.Errorf("Addresses() = %v, %v", got, err)
	}
}
