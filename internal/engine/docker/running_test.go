package docker_test

import (
	"io"
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

// inspected is a real engine's answer cut down to what matters and what must not be told.
const inspected = `{"Id":"` + string(id) + `","Created":"2026-01-02T03:04:04Z","Image":"sha256:0123","Name":"/web",
"State":{"Status":"running","StartedAt":"2026-01-02T03:04:05Z"},"Config":{"Env":["PASSWORD=secret"],"Labels":{"a":"b"}},
"HostConfig":{"LogConfig":{"Type":"LOGDRIVER","Config":{"awslogs-group":"/app","splunk-token":"secret"}},"NetworkMode":"bridge","CpuShares":256,"NanoCpus":500000000,"Memory":536870912},
"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.2","GlobalIPv6Address":"","MacAddress":"02:42:ac:11:00:02"},"a-net":{"IPAddress":"10.1.0.2","GlobalIPv6Address":"fd00::2","MacAddress":""}}}}`

// running serves the calls about a container that runs.
func running(t *testing.T, status int, body string) (e *docker.Engine, asked *[]string) {
	t.Helper()
	asked = new([]string)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			return
		}
		*asked = append(*asked, r.Method+" "+r.URL.RequestURI())
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	if e, err = docker.New("unix://" + l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, asked
}

func TestDetailsOfARunningContainer(t *testing.T) {
	want := container.Details{
		ImageID: "sha256:0123", Status: "running", Created: "2026-01-02T03:04:04Z", Started: "2026-01-02T03:04:05Z", NetworkMode: "bridge",
		Networks: []container.Network{
			{Name: "a-net", IPv4: netip.MustParseAddr("10.1.0.2"), IPv6: netip.MustParseAddr("fd00::2")},
			{Name: "bridge", IPv4: netip.MustParseAddr("172.17.0.2"), MAC: "02:42:ac:11:00:02"},
		},
		CPUShares: 256, CPUs: 0.5, Memory: 512 << 20,
	}
	for driver, options := range map[string]map[string]string{
		"splunk":  nil, // its options hold a token
		"awslogs": {"awslogs-group": "/app", "splunk-token": "secret"},
	} {
		e, asked := running(t, http.StatusOK, strings.Replace(inspected, "LOGDRIVER", driver, 1))
		got, err := e.Details(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		want.LogDriver, want.AWSLogs = driver, options
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +got):\n%s", driver, d)
		}
		if len(*asked) != 1 || !strings.HasSuffix((*asked)[0], "/containers/"+string(id)+"/json") {
			t.Errorf("asked %v", *asked)
		}
	}
}

func TestStatsIsOneSampleAtOnce(t *testing.T) {
	e, asked := running(t, http.StatusOK, `{"read":"x"}`)
	got, err := e.Stats(t.Context(), id)
	if err != nil || string(got) != `{"read":"x"}` {
		t.Errorf("%s, %v", got, err)
	}
	if len(*asked) != 1 || !strings.HasSuffix((*asked)[0], "/containers/"+string(id)+"/stats?one-shot=true&stream=false") {
		t.Errorf("asked %v", *asked)
	}
	e, _ = running(t, http.StatusOK, strings.Repeat(" ", 2<<20))
	if got, err := e.Stats(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestOnlyThisContainerIsDescribed(t *testing.T) {
	e, _ := running(t, http.StatusOK, strings.Replace(inspected, string(id), string(id[:63])+"2", 1))
	if got, err := e.Details(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("another container: %+v, %v", got, err)
	}
	e, _ = running(t, http.StatusOK, `{"Id":"`+string(id)+`"}`)
	if got, err := e.Details(t.Context(), id); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("half an answer: %+v, %v", got, err)
	}
}

func TestFaultsOfAnEngineThatDoesNotDescribe(t *testing.T) {
	const want = fault.EngineUnreachable
	for _, status := range []int{http.StatusNotFound, http.StatusInternalServerError} {
		e, _ := running(t, status, `{"message":"no"}`)
		if _, err := e.Details(t.Context(), id); fault.CodeOf(err) != want {
			t.Errorf("Details with %d: %v", status, err)
		}
		if _, err := e.Stats(t.Context(), id); fault.CodeOf(err) != want {
			t.Errorf("Stats with %d: %v", status, err)
		}
	}
}
