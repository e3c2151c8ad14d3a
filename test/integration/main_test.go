//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/engineroot"
)

// engine is one row of the matrix.
type engine struct {
	name    string // of its tests
	kind    engineroot.Kind
	tree    string // below TASKROLE_TEST_ENGINES
	version string // what the daemon must call itself, so that no test passes on another than meant
	way     container.Way
}

var engines = []engine{
	{"docker-20.10", engineroot.Docker, "bookworm", "20.10.", container.WayShim},
	{"docker-28.5", engineroot.Docker, "forky", "28.5.", container.WayCDI},
}

// others are started when the first test asks for them (onOther).
var others = []engine{
	{"podman-5.8", engineroot.Podman, "forky", "5.8.", container.WayCDI},
	{"containerd-2.1", engineroot.Containerd, "forky", "2.1.", container.WayCDI},
}

// worlds are the running instances, by engine.
var (
	worldsMu sync.Mutex
	worlds   = map[string]*world{}
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ec2.EngineVerb {
		os.Exit(ec2.EngineMain(os.Stdin, os.Stdout)) // the lab runs its own program again, as an engine's supervisor
	}
	if len(os.Args) > 1 && os.Args[1] == attackVerb {
		os.Exit(attackMain(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == oldKernelVerb {
		os.Exit(oldKernelMain(os.Args[2:]))
	}
	if err := isolated(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	for _, e := range engines {
		w, err := begin(ctx, e)
		if err != nil {
			fmt.Fprintf(os.Stderr, "start %s: %v\n", e.name, err)
			os.Exit(max(1, end()))
		}
		worlds[e.name] = w
	}
	finished := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done(): // interrupted: take everything down under the feet of the tests
			os.Exit(max(1, end()))
		case <-finished:
		}
	}()
	code := m.Run()
	close(finished)
	code = max(code, end())
	stop()
	os.Exit(code)
}

// isolated makes sure that a mistake in a test cannot reach the machine's network: there must be none but loopback.
func isolated() error {
	devices, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if d.Flags&net.FlagLoopback == 0 && d.Flags&net.FlagUp != 0 {
			return fmt.Errorf("the network device %s is in reach: run these tests by make test-integration", d.Name)
		}
	}
	return nil
}

// end takes everything down and looks for what is left.
func end() (code int) {
	worldsMu.Lock()
	defer worldsMu.Unlock()
	for name, w := range worlds {
		traces := w.instance.Traces()
		err := w.close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		left, lerr := traces.Wait(ctx)
		cancel()
		if err := errors.Join(err, lerr); err != nil || len(left) > 0 {
			fmt.Fprintf(os.Stderr, "take down %s: %v; left behind: %q\n", name, err, left)
			code = 1
		}
	}
	return code
}

// world is a simulated instance with one engine and the agent.
type world struct {
	engine
	cloud    *cloud.Cloud
	instance *ec2.Instance
	docker   *ec2.Docker
	dir      string // short: Unix sockets live in it
	agent    *exec.Cmd
	through  []string      // a command that becomes the agent, where a test wants one
	done     chan struct{} // closed when the agent has ended
	// doctorThrough is a command that becomes the doctor, where a test wants one.
	doctorThrough []string
	ahead         atomic.Int64 // of the cloud's clock before the host's, in nanoseconds
	doomed        []string     // containers that the test removes at its end
}

// bin is the path of a program that make build made.
func bin(name string) string { return filepath.Join(place("TASKROLE_TEST_BIN", "../../bin"), name) }

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

func tree(name string) string {
	return filepath.Join(place("TASKROLE_TEST_ENGINES", "../../build/engines"), name)
}

func begin(ctx context.Context, e engine) (_ *world, err error) {
	w := &world{engine: e}
	for _, file := range []string{tree(e.tree), bin("taskrole"), bin("taskrole-agent"), bin("taskrole-runtime"), bin("taskrole-lab-probe")} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("run make build engines first: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "tr-"); err != nil {
		return nil, err
	}
	// Two hops, so that a plain container on a bridge is the host to AWS, as in the story.
	if w.cloud, err = cloud.New(cloud.Options{HopLimit: 2, Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }}); err != nil {
		return nil, err
	}
	if w.instance, err = ec2.Launch(ctx, ec2.Options{Cloud: w.cloud}); err != nil {
		return nil, err
	}
	for _, dir := range []string{"cdi", "run"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	w.docker, err = ec2.NewDocker(ctx, w.instance, ec2.DockerOptions{
		Kind: e.kind, Root: tree(e.tree), Runtime: bin("taskrole-runtime"), CDIDir: filepath.Join(w.dir, "cdi"),
		Spec: filepath.Join(w.dir, "cdi/taskrole.json"), SocketDir: filepath.Join(w.dir, "run"),
	})
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(w.docker.Version(), e.version) {
		return nil, fmt.Errorf("the engine is %s, expected %s", w.docker.Name(), e.version)
	}
	err = w.docker.ImportFiles(ctx, "probe", map[string]string{"/probe": bin("taskrole-lab-probe")}, `ENTRYPOINT ["/probe"]`)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.configPath(), []byte(w.config()), 0o600); err != nil {
		return nil, err
	}
	return w, w.startAgent(ctx)
}

func (w *world) socket() string     { return filepath.Join(w.dir, "run/agent.sock") }
func (w *world) configPath() string { return filepath.Join(w.dir, "config.yaml") }

// engines is the part of the configuration that says whom to ask.
func (w *world) engines() string {
	docker, podman := "none", "none"
	switch w.kind {
	case engineroot.Docker:
		docker = w.docker.Host()
	case engineroot.Podman:
		podman = w.docker.Host()
	case engineroot.Containerd: // nobody is asked
	}
	return fmt.Sprintf("{docker: %q, podman: %q}", docker, podman)
}

// config is the agent's configuration. The role keeper is for containers that call themselves keeper, and deaf has
// an external id that nobody expects.
func (w *world) config() string {
	text := fmt.Sprintf(`account: "123456789012"
region: us-east-1
socket: %s
runtime: %s
cdi: {dir: %s}
engines: %s
sts: {endpoint: %q}
roles:
  reader:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    region: us-east-1
    egress: {endpoints: [%q]}
    task_metadata: true
    allow: [{any: true}]
  writer:
    arn: arn:aws:iam::123456789012:role/task-s3-writer
    region: us-east-1
    egress: {endpoints: [%q]}
    allow: [{any: true}]
  keeper:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    allow: [{name: "keeper-*"}]
  untrusted:
    arn: arn:aws:iam::123456789012:role/task-untrusted
    allow: [{any: true}]
`, w.socket(), bin("taskrole-runtime"), filepath.Join(w.dir, "cdi"), w.engines(), w.instance.ServicesURL(),
		w.instance.ServicesURL(), w.instance.ServicesURL())
	if w.kind == engineroot.Containerd {
		// Nobody is asked there, so nothing may need an answer.
		text = strings.NewReplacer("    task_metadata: true\n", "", `{name: "keeper-*"}`, "{any: true}").Replace(text)
	}
	return text
}

// startAgent starts `taskrole agent` in the instance and returns when it answers.
func (w *world) startAgent(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	words := append(slices.Clone(w.through), bin("taskrole"), "agent", "--config", w.configPath())
	w.agent = exec.Command(words[0], words[1:]...)
	w.agent.Stdout, w.agent.Stderr = log, log
	if err := w.instance.Start(w.agent); err != nil {
		return err
	}
	w.done = make(chan struct{})
	agent, done := w.agent, w.done
	go func() {
		_ = agent.Wait() // how it ended is in its log
		close(done)
	}()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		select {
		case <-done:
			return permanent{fmt.Errorf("the agent ended:\n%s", w.log())}
		default:
		}
		_, err := control.List(ctx, w.socket())
		return err
	})
}

// stopAgent ends the agent and waits for its end.
func (w *world) stopAgent(s os.Signal) error {
	if err := w.agent.Process.Signal(s); err != nil {
		return err
	}
	select {
	case <-w.done:
		return nil
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("the agent does not end"), w.agent.Process.Kill())
	}
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
		errs = append(errs, w.stopAgent(syscall.SIGTERM))
	}
	if w.instance != nil {
		errs = append(errs, w.instance.Close()) // the engine too
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// permanent is an error that more waiting does not mend.
type permanent struct{ error }

// poll calls f until it succeeds, and returns its last error when ctx ends.
func poll(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if p, ok := errors.AsType[permanent](err); ok {
			return p
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// eventually is poll for a test.
func eventually(tb testing.TB, f func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, f); err != nil {
		tb.Fatal(err)
	}
}

// onEach runs a test on every engine.
func onEach(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { test(t, use(t, worlds[e.name])) })
	}
}

// onOther runs a test on one of the engines that are started only when they are needed.
func onOther(t *testing.T, name string, test func(*testing.T, *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { test(t, use(t, other(t, name))) })
}

func other(t *testing.T, name string) *world {
	t.Helper()
	worldsMu.Lock()
	defer worldsMu.Unlock()
	if w, ok := worlds[name]; ok {
		return w
	}
	for _, e := range others {
		if e.name != name {
			continue
		}
		begun := time.Now()
		w, err := begin(context.WithoutCancel(t.Context()), e)
		if err != nil {
			t.Fatalf("start %s: %v", name, err)
		}
		t.Logf("started %s in %v", w.docker.Name(), time.Since(begun))
		worlds[name] = w
		return w
	}
	t.Fatalf("there is no engine %s", name)
	return nil
}

// use makes the end of a failing test show what the agent said meanwhile.
func use(tb testing.TB, w *world) *world {
	tb.Helper()
	before := len(w.log())
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the agent's log:\n%s", w.log()[before:])
		}
	})
	return w
}

// environment leads an AWS client to the lab. It is what a person would set to use another endpoint, no more.
func (w *world) environment() []string {
	return []string{"AWS_ENDPOINT_URL=" + w.instance.ServicesURL(), "AWS_REGION=us-east-1"}
}

// run runs the probe in a container. role is "" for a plain one.
func (w *world) run(tb testing.TB, role string, network ec2.Network, args ...string) ec2.Result {
	tb.Helper()
	return w.start(tb, ec2.Container{Role: role, Network: network, Args: args})
}

// start runs c, of the image probe and by the engine's way in where it does not say.
func (w *world) start(tb testing.TB, c ec2.Container) ec2.Result {
	tb.Helper()
	if c.Image == "" {
		c.Image = "probe"
	}
	if c.Role != "" && c.Way == "" {
		c.Way = w.way
	}
	c.Env = append(c.Env, w.environment()...)
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	r, err := w.docker.Run(ctx, c)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// live starts a container that stays, and returns its id. The test's end removes it.
func (w *world) live(tb testing.TB, c ec2.Container) string {
	tb.Helper()
	c.Detach = true
	if len(c.Args) == 0 {
		c.Args = []string{"sleep", "10m"}
	}
	r := w.start(tb, c)
	id := strings.TrimSpace(string(r.Stdout))
	if id != "" {
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
			defer cancel()
			if err := w.docker.Remove(ctx, id); err != nil {
				tb.Error(err)
			}
		})
	}
	if r.Exit != 0 {
		tb.Fatalf("the container did not start: %s", r.Stderr)
	}
	return id
}

// must runs a docker command that has to succeed, and returns what it printed.
func (w *world) must(tb testing.TB, args ...string) string {
	tb.Helper()
	r, err := w.docker.Exec(tb.Context(), args...)
	if err != nil || r.Exit != 0 {
		tb.Fatalf("docker %s: %v %s", strings.Join(args, " "), err, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// exec runs the probe in a running container, as a person's shell would: without the variables a way in adds.
func (w *world) exec(tb testing.TB, id string, args ...string) ec2.Result {
	tb.Helper()
	r, err := w.docker.ExecIn(tb.Context(), id, w.environment(), append([]string{"/probe"}, args...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// pid is a container's first process.
func (w *world) pid(tb testing.TB, id string) int {
	tb.Helper()
	pid, err := strconv.Atoi(w.must(tb, "inspect", "--format={{.State.Pid}}", id))
	if err != nil || pid == 0 {
		tb.Fatalf("container %s has no process: %v", id, err)
	}
	return pid
}

// attached is the agent's list.
func (w *world) attached(tb testing.TB) []control.Attached {
	tb.Helper()
	l, err := control.List(tb.Context(), w.socket())
	if err != nil {
		tb.Fatal(err)
	}
	return l.Containers
}

// hook runs taskrole-runtime hook as an OCI runtime does, and returns its exit code and its words.
func (w *world) hook(tb testing.TB, role string, state []byte) (int, string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), bin("taskrole-runtime"), "hook", "--role", role, "--socket", w.socket())
	var stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stderr = []string{"PATH=/usr/bin:/bin"}, bytes.NewReader(state), &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		tb.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}
