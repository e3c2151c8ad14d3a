package taskmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/arn"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/taskmeta"
)

var update = flag.Bool("update", false, "write the golden files anew")

const id = container.ID("3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee3f2a91c0ffee0001")

// engine answers with what is set, after latency, and counts.
type engine struct {
	latency time.Duration
	asked   atomic.Int32

	mu      sync.Mutex // guards what follows
	details container.Details
	stats   string
	err     error
}

func (e *engine) answer(ctx context.Context) error {
	e.asked.Add(1)
	if e.latency > 0 {
		select {
		case <-time.After(e.latency):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return e.err
}

func (e *engine) Details(ctx context.Context, got container.ID) (container.Details, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if got != id {
		return container.Details{}, errors.New("asked for another container")
	}
	return e.details, e.answer(ctx)
}

func (e *engine) Stats(ctx context.Context, got container.ID) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if got != id {
		return nil, errors.New("asked for another container")
	}
	return []byte(e.stats), e.answer(ctx)
}

func (e *engine) set(stats string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats, e.err = stats, err
}

const (
	firstSample = `{"read":"2026-01-02T03:04:10Z","preread":"0001-01-01T00:00:00Z","pids_stats":{"current":3},` +
		`"cpu_stats":{"cpu_usage":{"total_usage":1000}},"precpu_stats":{"cpu_usage":{"total_usage":0}},"memory_stats":{"usage":18446744073709551615},` +
		`"networks":{"eth0":{"rx_bytes":100,"tx_bytes":10},"eth1":{"rx_bytes":50,"tx_bytes":0}}}`
	secondSample = `{"read":"2026-01-02T03:04:20Z","preread":"0001-01-01T00:00:00Z","pids_stats":{"current":4},` +
		`"cpu_stats":{"cpu_usage":{"total_usage":9000}},"precpu_stats":{"cpu_usage":{"total_usage":0}},"memory_stats":{"usage":5},` +
		`"networks":{"eth0":{"rx_bytes":1100,"tx_bytes":60},"eth1":{"rx_bytes":50,"tx_bytes":0}}}`
)

func theEngine() *engine {
	return &engine{stats: firstSample, details: container.Details{
		ImageID: "sha256:0123", Status: "running", Created: "2026-01-02T03:04:04.123456789Z", Started: "2026-01-02T03:04:05.123456789Z",
		LogDriver: "awslogs", AWSLogs: map[string]string{"awslogs-group": "/app", "awslogs-region": "eu-west-1"}, NetworkMode: "bridge",
		Networks:  []container.Network{{Name: "bridge", IPv4: netip.MustParseAddr("172.17.0.2"), MAC: "02:42:ac:11:00:02"}},
		CPUShares: 256, CPUs: 0.5, Memory: 512 << 20,
	}}
}

func theTask(e *engine) *taskmeta.Task {
	return taskmeta.New(taskmeta.Options{
		Container: container.Container{
			ID: id, Name: "web", Image: "nginx:1.27", Known: true,
			Labels: map[string]string{"com.example.team": "web", "com.amazonaws.ecs.task-arn": "arn:forged"},
		},
		Role: "app", RoleARN: arn.Role{Partition: "aws", Account: "123456789012", Path: "/", Name: "task-app"}, Region: "eu-west-1",
		Zone: func() string { return "eu-west-1a" }, Engine: e,
	})
}

func document(t *testing.T, task *taskmeta.Task, path string) string {
	t.Helper()
	b, err := task.Document(t.Context(), path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out.String() + "\n"
}

func TestDocumentsAreTheGoldenOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := theEngine()
		task := theTask(e)
		first := document(t, task, "/v4/app/stats")
		time.Sleep(time.Minute)
		e.set(secondSample, nil)
		for name, paths := range map[string][]string{
			"v4-container": {"/v4/app", "/v4/whatever"},
			"v4-task":      {"/v4/app/task", "/v4/app/taskWithTags"},
			"v4-stats":     {"/v4/app/stats"},
			"v4-taskstats": {"/v4/app/task/stats"},
			"v3-container": {"/v3/app", "/v2/metadata/" + string(id)},
			"v3-task":      {"/v3/app/task", "/v3/app/taskWithTags", "/v2/metadata", "/v2/metadataWithTags"},
			"v3-stats":     {"/v3/app/stats", "/v2/stats/" + string(id)},
			"v3-taskstats": {"/v3/app/task/stats", "/v2/stats"},
			"v4-first":     nil,
		} {
			file := filepath.Join("testdata", name+".json")
			got := first
			for i, path := range paths {
				if d := document(t, task, path); i == 0 {
					got = d
				} else if d != got {
					t.Errorf("%s is not %s", path, paths[0])
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s (-golden +got):\n%s", name, d)
			}
		}
	})
}

func TestWithoutNetworkOrLimitsOrPlace(t *testing.T) {
	e := &engine{details: container.Details{Status: "running", NetworkMode: "none", LogDriver: "json-file"}}
	task := taskmeta.New(taskmeta.Options{Container: container.Container{ID: id}, Role: "app", RoleARN: arn.Role{Partition: "aws", Account: "123456789012"}, Engine: e})
	doc := document(t, task, "/v4/app/task")
	for _, want := range []string{`"NetworkMode": "none"`, `"IPv4Addresses": []`, `"TaskARN": "arn:aws:ecs::123456789012:task/taskrole/`, `"Name": "3f2a91c0ffee"`} {
		if !strings.Contains(doc, want) {
			t.Errorf("no %s in:\n%s", want, doc)
		}
	}
	for _, not := range []string{"AvailabilityZone", "LogOptions", "null", "StartedAt"} {
		if strings.Contains(doc, not) {
			t.Errorf("%s in:\n%s", not, doc)
		}
	}
}

func TestPathsThatAreNone(t *testing.T) {
	e := theEngine()
	task := theTask(e)
	for _, path := range []string{
		"", "/", "/v4", "/v4/", "/v3", "/v2", "/v5/app", "/v4/app/tasks", "/v4/app/task/stats/x", "/v4//task", "/v2/metadata/a/b", "/v2/stats/a/b",
		"/v2/credentials/app", "/v2/credentials", "/v4/app/../x", "v4",
	} {
		_, err := task.Document(t.Context(), path)
		if task.Has(path) || fault.CodeOf(err) != fault.NotFound {
			t.Errorf("%q: %v", path, err)
		}
	}
	if e.asked.Load() != 0 {
		t.Error("the engine was asked")
	}
	for _, path := range []string{"/v4/a", "/v3/a", "/v2/metadata", "/v2/stats/" + string(id)} {
		if !task.Has(path) {
			t.Errorf("%q is no path", path)
		}
	}
}

// However often a container asks, the engine is asked seldom, and by one at a time.
func TestTheEngineIsAskedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := theEngine()
		e.latency = 500 * time.Millisecond
		task := theTask(e)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { document(t, task, "/v4/app/task") })
		}
		wg.Wait()
		if n := e.asked.Load(); n != 1 {
			t.Errorf("asked %d times by 100 at once, want 1", n)
		}
		for range 600 { // a minute
			document(t, task, "/v4/app")
			time.Sleep(100 * time.Millisecond)
		}
		if n := e.asked.Load(); n > 7 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

func TestAnEngineThatFailsIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := theEngine()
		e.set("", fault.New(fault.EngineUnreachable, "the engine does not answer", ""))
		task := theTask(e)
		for range 100 {
			if _, err := task.Document(t.Context(), "/v4/app/stats"); fault.CodeOf(err) != fault.EngineUnreachable {
				t.Fatalf("err = %v", err)
			}
		}
		if n := e.asked.Load(); n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
		e.set(firstSample, nil)
		time.Sleep(3 * time.Second)
		document(t, task, "/v4/app/stats")
	})
}

func TestWhoWaitsForTheEngineMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := theEngine()
		e.latency = time.Hour
		task := theTask(e)
		var wg sync.WaitGroup
		for range 2 { // one asks, the other waits for it
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := task.Document(ctx, "/v4/app"); err == nil {
					t.Error("an answer that nobody gave")
				}
			})
		}
		wg.Wait()
	})
}

func TestSampleThatIsNoSample(t *testing.T) {
	for _, s := range []string{"", "[]", "{", `{"read": 7}`} {
		e := theEngine()
		e.set(s, nil)
		if b, err := theTask(e).Document(t.Context(), "/v4/app/stats"); fault.CodeOf(err) != fault.EngineUnreachable {
			t.Errorf("%q: %s, %v", s, b, err)
		}
	}
}

// Whatever the path, Has and Document agree, and what is told is JSON of this container.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"/v4/app/task/stats", "/v3/x", "/v2/metadata/y", "", "/v4//", "/v2/stats"} {
		f.Add(p)
	}
	task := theTask(theEngine())
	f.Fuzz(func(t *testing.T, path string) {
		b, err := task.Document(t.Context(), path)
		if task.Has(path) != (err == nil) {
			t.Errorf("%q: Has says %v, Document %v", path, task.Has(path), err)
		}
		if err == nil && !json.Valid(b) {
			t.Errorf("%q: %s", path, b)
		}
	})
}
