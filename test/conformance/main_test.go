//go:build conformance

package conformance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/iam"
)

// Flags of the suite, all optional.
var (
	only    = flag.String("clients", "", "comma-separated clients to run; empty is all of them")
	onlyOn  = flag.String("engines", "", "comma-separated engines; empty is both")
	life    = flag.Duration("life", 40*time.Second, "how long the sessions live of clients that ask again in time")
	require = flag.Bool("require", false, "fail if a client that is to run was not built")
	slow    = flag.Bool("slow", true, "also wait for the clients that keep what IMDS gave them for many minutes")
	golden  = flag.Bool("golden", true, "also try whose identity wins, in many environments")
	table   = flag.Bool("table", true, "run the table; without it, the cells of the last conformance.json are kept")
	results = flag.String("results", "../../build", "directory of conformance.txt and conformance.json")
	page    = flag.String("page", "", "Markdown file to write after a complete run")

	doctorOnly = flag.String("doctor-only", "", "conditions in which the doctor is compared, a regular expression; empty is all of them")
	doctorPage = flag.String("doctor-page", "", "Markdown file to write after the doctor was compared with every client")
)

// engine is one of the two Docker versions.
type engine struct {
	name, tree, version string
	way                 container.Way
}

func engines() []engine {
	all := []engine{
		{"docker-20.10", "bookworm", "20.10.", container.WayShim},
		{"docker-28.5", "forky", "28.5.", container.WayCDI},
	}
	var asked []engine
	for _, e := range all {
		if selected(*onlyOn, e.name) {
			asked = append(asked, e)
		}
	}
	return asked
}

func selected(list, name string) bool {
	return list == "" || strings.Contains(","+list+",", ","+name+",")
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ec2.EngineVerb {
		os.Exit(ec2.EngineMain(os.Stdin, os.Stdout)) // the lab runs its own program again, as an engine's supervisor
	}
	os.Exit(m.Run())
}

// world is a simulated instance with one engine and the agent.
type world struct {
	engine
	cloud    *cloud.Cloud
	instance *ec2.Instance
	docker   *ec2.Docker
	dir      string // short: Unix sockets live in it
	agent    *exec.Cmd
	agentLog *os.File
	done     chan struct{} // closed when the agent has ended

	mu   sync.Mutex // guards seen
	seen map[iam.Event]bool
}

func place(variable, otherwise string) string {
	dir := os.Getenv(variable)
	if dir == "" {
		dir = otherwise
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		panic(err)
	}
	return dir
}

func bin(name string) string { return filepath.Join(place("TASKROLE_TEST_BIN", "../../bin"), name) }
func tree(name string) string {
	return filepath.Join(place("TASKROLE_TEST_ENGINES", "../../build/engines"), name)
}

func built(name string) string {
	return filepath.Join(place("TASKROLE_TEST_CLIENTS", "../../build/clients"), name)
}

// begin brings a world up for the length of the test.
func begin(t *testing.T, e engine) *world {
	t.Helper()
	w := &world{engine: e, seen: map[iam.Event]bool{}}
	var err error
	if w.dir, err = os.MkdirTemp("", "tr-"); err != nil { //nolint:usetesting // short: sockets are in it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	if w.cloud, err = cloud.New(cloud.Options{HopLimit: 2}); err != nil {
		t.Fatal(err)
	}
	if w.instance, err = ec2.Launch(t.Context(), ec2.Options{Cloud: w.cloud}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"cdi", "run"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.docker, err = ec2.NewDocker(t.Context(), w.instance, ec2.DockerOptions{
		Root: tree(e.tree), Runtime: bin("taskrole-runtime"), CDIDir: filepath.Join(w.dir, "cdi"),
		Spec: filepath.Join(w.dir, "cdi/taskrole.json"), SocketDir: filepath.Join(w.dir, "run"), Share: []string{built("")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(w.docker.Version(), e.version) {
		t.Fatalf("the engine is Docker %s, expected %s", w.docker.Version(), e.version)
	}
	if err := os.WriteFile(w.configPath(), []byte(w.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.startAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) socket() string     { return filepath.Join(w.dir, "run/agent.sock") }
func (w *world) configPath() string { return filepath.Join(w.dir, "config.yaml") }

// config is the agent's configuration. Only the role reader has IMDS, so that what is found with the others was found
// where their variables lead.
func (w *world) config() string {
	const role = `
  %s:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    region: us-east-1
    imds: %s
    inject: %s
    egress: {endpoints: [%q]}
    allow: [{any: true}]`
	s := fmt.Sprintf(`account: "123456789012"
region: us-east-1
socket: %s
runtime: %s
cdi: {dir: %s}
engines: {docker: %q}
sts: {endpoint: %q, calls_per_second: 200}
roles:`, w.socket(), bin("taskrole-runtime"), filepath.Join(w.dir, "cdi"), w.docker.Host(), w.instance.ServicesURL())
	for _, r := range []struct{ name, imds, inject string }{
		{"reader", "v2-only", "relative"}, {"ecs-only", `"off"`, "relative"}, {"full", `"off"`, "full"}, {"pod", `"off"`, "pod-identity"},
	} {
		s += fmt.Sprintf(role, r.name, r.imds, r.inject, w.instance.ServicesURL())
	}
	return s + "\n"
}

func (w *world) startAgent(ctx context.Context) (err error) {
	if w.agentLog, err = os.Create(filepath.Join(w.dir, "agent.log")); err != nil {
		return err
	}
	w.agent = exec.Command(bin("taskrole"), "agent", "--config", w.configPath())
	w.agent.Stdout, w.agent.Stderr = w.agentLog, w.agentLog
	if err := w.instance.Start(w.agent); err != nil {
		return err
	}
	w.done = make(chan struct{})
	go func() {
		_ = w.agent.Wait() // how it ended is in its log
		close(w.done)
	}()
	for range 300 {
		if _, err = control.List(ctx, w.socket()); err == nil {
			return nil
		}
		select {
		case <-w.done:
			return fmt.Errorf("the agent ended:\n%s", w.log())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("the agent does not answer: %w\n%s", err, w.log())
}

func (w *world) log() string {
	text, err := os.ReadFile(filepath.Join(w.dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// close takes the world down; it works on one that is half made.
func (w *world) close() error {
	var errs []error
	if w.done != nil {
		errs = append(errs, w.agent.Process.Signal(syscall.SIGTERM))
		select {
		case <-w.done:
		case <-time.After(10 * time.Second):
			errs = append(errs, errors.New("the agent does not end"), w.agent.Process.Kill())
		}
	}
	if w.agentLog != nil {
		errs = append(errs, w.agentLog.Close())
	}
	if w.instance != nil {
		traces := w.instance.Traces()
		errs = append(errs, w.instance.Close()) // the engine too
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		left, err := traces.Wait(ctx)
		cancel()
		errs = append(errs, err)
		if len(left) > 0 {
			errs = append(errs, fmt.Errorf("left behind: %q", left))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// importRoot makes an image of a root file system of scripts/clients.
func (w *world) importRoot(ctx context.Context, name string) error {
	tar := exec.CommandContext(ctx, "tar", "--create", "--directory="+built("roots/"+name), "--exclude=./dev/*", ".")
	out, err := tar.StdoutPipe()
	if err != nil {
		return err
	}
	if err := tar.Start(); err != nil {
		return err
	}
	return errors.Join(w.docker.ImportImage(ctx, name, out), tar.Wait())
}

// watch notes the account's audit trail, which remembers only the last calls, until ctx ends.
func (w *world) watch(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		last := w.cloud.Calls().Last
		w.mu.Lock()
		for _, e := range last {
			w.seen[e] = true
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// signedBy are the access keys with which a session was seen to list buckets, successfully.
func (w *world) signedBy(session string) map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := map[string]bool{}
	for e := range w.seen {
		if e.Service == "s3" && e.Status == 200 && strings.HasSuffix(e.Principal, "/"+session) {
			keys[e.AccessKeyID] = true
		}
	}
	return keys
}

// interrupted ends when somebody stops the run: what was brought up is still taken down.
func interrupted(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	return ctx
}
