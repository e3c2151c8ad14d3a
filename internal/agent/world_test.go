package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/agent"
	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
	"taskrole/lab/cloud"
	"taskrole/lab/iam"
)

func TestMain(m *testing.M) {
	if actor.Main() {
		return
	}
	os.Exit(testkit.Main(m))
}

// world is a simulated account, and an agent that works with it.
type world struct {
	t      *testing.T
	cloud  *cloud.Cloud
	dir    string
	socket string
	config string
	reload chan os.Signal
	log    *logBuffer
	engine *http.Server                             // answers as a Docker that runs no container; the real ones are in test/integration
	says   atomic.Pointer[func(path string) string] // what the engine answers, if not that
	stop   func()                                   // stops the agent and waits for it
}

// logBuffer is a log that a test can read while the agent writes.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// configText has a role for each way an attach can end. %s: dir, STS endpoint.
const configText = `
account: 123456789012
region: us-east-1
socket: %[1]s/agent.sock
runtime: %[1]s/taskrole-runtime
cdi: {dir: %[1]s/cdi}
engines: {docker: "unix://%[1]s/docker.sock"}
sts: {endpoint: %[2]q}
roles:
  reader:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    region: us-east-1
    allow: [{any: true}]
  full:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    inject: full
    allow: [{any: true}]
  forbidden:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    allow: [{name: nobody-has-this-name}]
  untrusted:
    arn: arn:aws:iam::123456789012:role/task-untrusted
    allow: [{any: true}]
`

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.SkLookup)
	c, err := cloud.New(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	services := httptest.NewServer(c.Services())
	t.Cleanup(services.Close)
	dir, err := os.MkdirTemp("", "tr") //nolint:usetesting // the socket's path has room for 108 bytes only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, cloud: c, dir: dir, socket: filepath.Join(dir, "agent.sock"), config: filepath.Join(dir, "config.yaml"), reload: make(chan os.Signal)}
	w.engine = w.serveEngine()
	w.write("taskrole-runtime", "")
	w.write("config.yaml", fmt.Sprintf(configText, dir, services.URL))
	host := c.Account().NewSession(c.Account().Role(cloud.RoleARN(cloud.InstanceRole)), iam.SessionOptions{Name: cloud.InstanceID, Life: time.Hour})
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", host.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", host.Secret.Reveal())
	t.Setenv("AWS_SESSION_TOKEN", host.Token.Reveal())
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	w.start()
	return w
}

func (w *world) serveEngine() *http.Server {
	w.t.Helper()
	l, err := new(net.ListenConfig).Listen(w.t.Context(), "unix", filepath.Join(w.dir, "docker.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Api-Version", "1.41")
		if strings.HasSuffix(r.URL.Path, "/events") { // nothing happens
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			return
		}
		if says := w.says.Load(); says != nil {
			rw.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(rw, (*says)(r.URL.Path))
			return
		}
		_, _ = io.WriteString(rw, "[]")
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	w.t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return srv
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start runs an agent until stop is called or the test ends.
func (w *world) start() {
	w.t.Helper()
	w.log = new(logBuffer)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { ended <- agent.Run(ctx, agent.Options{ConfigPath: w.config, Logger: logger, Reload: w.reload}) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the agent ended with %v", err)
		}
	})
	w.t.Cleanup(w.stop)
	w.eventually("the agent is ready", func() bool {
		select {
		case err := <-ended:
			ended <- nil
			w.t.Fatalf("the agent ended with %v", err)
		default:
		}
		return strings.Contains(w.log.String(), "agent ready")
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("never happened: %s\nlog:\n%s", what, w.log)
		case <-tick.C:
		}
	}
}

// attach does what the hook does for the process of a, or with the namespace of another.
func (w *world) attach(id container.ID, role string, a *actor.Actor, ns *actor.Actor) (control.AttachReply, error) {
	w.t.Helper()
	p, err := attest.OpenProcess(a.PID())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	q, err := attest.OpenProcess(ns.PID())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	f, err := q.NetNS()
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	return control.Attach(ctx, w.socket, control.AttachRequest{Role: role, ID: id, Way: container.WayCDI}, p.File(), f)
}

// list returns the ids of the attached containers.
func (w *world) list() []container.ID {
	w.t.Helper()
	reply, err := control.List(w.t.Context(), w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []container.ID
	for _, c := range reply.Containers {
		ids = append(ids, c.ID)
	}
	return ids
}

// sighup makes the agent read its configuration again, and returns what it logs about that.
func (w *world) sighup(expect string) {
	w.t.Helper()
	select {
	case w.reload <- syscall.SIGHUP:
	case <-time.After(10 * time.Second):
		w.t.Fatalf("the agent takes no signal\nlog:\n%s", w.log)
	}
	w.eventually("log of "+expect, func() bool { return strings.Contains(w.log.String(), expect) })
}
