package hostimds_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/hostimds"
	"taskrole/internal/instance"
	"taskrole/lab/imds"
)

// service is a metadata service on 127.0.0.1 that notes what it is asked for.
type service struct {
	*httptest.Server
	mu    sync.Mutex // guards asked
	asked []string
}

func serve(t *testing.T, h http.Handler) *service {
	t.Helper()
	for _, name := range []string{"AWS_EC2_METADATA_DISABLED", "HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, "") // the address is given, so nothing link-local is asked
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func fetch(t *testing.T, url string) (instance.Facts, error) {
	t.Helper()
	c, err := hostimds.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return c.Fetch(t.Context())
}

func labIMDS(t *testing.T) *service {
	t.Helper()
	s, err := imds.New(imds.Options{
		Region: "eu-west-1", AccountID: "123456789012", InstanceID: "i-0123", PrivateIP: "10.0.0.9", TokensRequired: true, RoleName: "host",
		Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, s)
}

func TestFetchesWhatTheServiceTells(t *testing.T) {
	got, err := fetch(t, labIMDS(t).URL)
	want := instance.Facts{
		ID: "i-0123", Type: "t3.micro", ImageID: "ami-0123456789abcdef0", Architecture: "x86_64", Region: "eu-west-1", Zone: "eu-west-1a",
		ZoneID: "use1-az1", LocalIPv4: "10.0.0.9", Hostname: "ip-10-0-0-9.ec2.internal", MAC: "0e:00:00:00:00:01", PendingTime: "2026-01-02T03:04:05Z",
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("Fetch: %v (-want +got):\n%s", err, d)
	}
}

// The list is written out here once more: whoever makes it longer is asked to think twice.
func TestAsksForTheseExactPathsAndNothingElse(t *testing.T) {
	s := labIMDS(t)
	if _, err := fetch(t, s.URL); err != nil {
		t.Fatal(err)
	}
	want := []string{"PUT /latest/api/token"}
	for _, p := range []string{
		"instance-id", "instance-type", "ami-id", "placement/region", "placement/availability-zone", "placement/availability-zone-id",
		"local-ipv4", "hostname", "mac",
	} {
		want = append(want, "GET /latest/meta-data/"+p)
	}
	want = append(want, "GET /latest/dynamic/instance-identity/document")
	if d := cmp.Diff(want, s.paths()); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
}

func TestAsksNobodyWhereDisabled(t *testing.T) {
	s := labIMDS(t)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if _, err := fetch(t, s.URL); err == nil || len(s.paths()) != 0 {
		t.Errorf("Fetch = %v after asking for %v", err, s.paths())
	}
}

func TestNeverAsksWithoutATokenAndNeverThroughAProxy(t *testing.T) {
	s := serve(t, http.NotFoundHandler())
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	if _, err := fetch(t, s.URL); err == nil {
		t.Error("facts of a service without tokens")
	}
	if d := cmp.Diff([]string{"PUT /latest/api/token"}, s.paths()); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
}

func TestUnknownPathsAndStrangeValuesAreLeftOut(t *testing.T) {
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
			_, _ = w.Write([]byte("t"))
		case strings.HasSuffix(r.URL.Path, "/instance-id"):
			_, _ = w.Write([]byte("i-1"))
		case strings.HasSuffix(r.URL.Path, "/hostname"):
			_, _ = w.Write([]byte("<html>\r\nlog in"))
		case strings.HasSuffix(r.URL.Path, "/mac"):
			_, _ = w.Write([]byte(strings.Repeat("m", 100_000)))
		default:
			http.NotFound(w, r)
		}
	}))
	got, err := fetch(t, s.URL)
	if d := cmp.Diff(instance.Facts{ID: "i-1"}, got); d != "" || err != nil {
		t.Errorf("Fetch: %v (-want +got):\n%s", err, d)
	}
}

func TestGivesUpOnASilentService(t *testing.T) {
	s := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	start := time.Now()
	c, err := hostimds.New(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context()); err == nil || time.Since(start) > 4*time.Second {
		t.Errorf("Fetch = %v after %s", err, time.Since(start))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Fetch(ctx); err == nil {
		t.Error("facts after the context ended")
	}
}
