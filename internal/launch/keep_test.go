package launch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/companion"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/launch"
)

// TestMain makes the test's program also taskrole run and its companion.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 {
		os.Exit(m.Run())
	}
	var err error
	switch config := os.Args[2]; os.Args[1] {
	case "taskrole-run":
		err = launch.Run(context.Background(), launch.Options{
			Engine: launch.Docker, Role: "reader", Args: os.Args[3:], ConfigPath: config, Env: os.Environ(), Stderr: os.Stderr,
			Companion: []string{"companion", config}, Exec: syscall.Exec,
		})
	case "companion":
		err = companion.Detach("serve", config)
	case "serve":
		err = launch.Keep(context.Background(), launch.KeepOptions{ConfigPath: config, Agent: small, Logger: slog.New(slog.DiscardHandler)})
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(fault.As(err).Exit())
	}
}

// small is an agent of which a file beside its configuration says that it fails.
func small(ctx context.Context, config string, logger *slog.Logger, _ <-chan os.Signal) error {
	dir := filepath.Dir(config)
	if _, err := os.Stat(filepath.Join(dir, "fail")); err == nil {
		return fault.New(fault.KernelUnsupported, "this kernel is too old", "run a newer one")
	}
	l, err := control.Listen(filepath.Join(dir, "run/s"))
	if err != nil {
		return err
	}
	return control.Serve(ctx, l, holders{dir}, logger, control.WithOperator(agent{}), control.WithPeers(func(uint32) error { return nil }))
}

// holders are the containers with a role: one, while there is a file.
type holders struct{ dir string }

func (holders) Attach(context.Context, control.AttachRequest, *os.File, *os.File) (control.AttachReply, error) {
	return control.AttachReply{}, fault.New(fault.Internal, "not in this test", "")
}

func (h holders) List(context.Context) (control.ListReply, error) {
	var all control.ListReply
	if there(h.dir, "container")() {
		all.Containers = []control.Attached{{ID: "c"}}
	}
	return all, nil
}

// alone is a host without an agent, whose docker leaves a container behind if it is told to detach, and otherwise runs
// until it is told to end.
func alone(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const docker = `#!/bin/sh
case "$*" in
info*) echo '{"ServerVersion":"28.5.2","CDISpecDirs":["DIR/cdi"]}' ;;
*--detach*) touch DIR/container; echo detached ;;
*) touch DIR/started; until [ -e DIR/end ]; do sleep 0.05; done; echo "ran $*" ;;
esac
`
	config := "account: \"123456789012\"\nsocket: DIR/run/s\ncdi: {dir: DIR/cdi}\nroles: {reader: {allow: [{any: true}]}}\n"
	for name, text := range map[string]string{"docker": docker, "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return dir
}

// taskroleRun starts taskrole run, and returns what waits for its end.
func taskroleRun(t *testing.T, dir string, args ...string) (wait func() (string, error)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, append([]string{"taskrole-run", filepath.Join(dir, "config.yaml")}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

// until waits for what a file says.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !is(); {
		select {
		case <-deadline:
			t.Fatalf("20 s later still not so: %s", what)
		case <-tick.C:
		}
	}
}

func there(dir, name string) func() bool {
	return func() bool { _, err := os.Lstat(filepath.Join(dir, name)); return err == nil }
}

func gone(dir, name string) func() bool { return func() bool { return !there(dir, name)() } }

func create(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAgentIsKeptWhileDockerRunsAndNoLonger(t *testing.T) {
	dir := alone(t)
	first := taskroleRun(t, dir, "--rm", "alpine")
	until(t, "docker runs", there(dir, "started"))
	if !there(dir, "run/s")() {
		t.Error("docker runs without an agent")
	}
	create(t, dir, "end")
	if out, err := first(); err != nil || out != "ran run --device=taskrole/role=reader --rm alpine\n" {
		t.Errorf("docker: %q, %v", out, err)
	}
	until(t, "socket and lock are gone", func() bool { return gone(dir, "run/s")() && gone(dir, "run/run.lock")() })
}

func TestAgentIsKeptForAContainerThatStays(t *testing.T) {
	dir := alone(t)
	if out, err := taskroleRun(t, dir, "--detach", "alpine")(); err != nil || out != "detached\n" {
		t.Fatalf("docker: %q, %v", out, err)
	}
	second := taskroleRun(t, dir, "alpine") // finds that agent
	until(t, "docker runs", there(dir, "started"))
	if err := os.Remove(filepath.Join(dir, "container")); err != nil {
		t.Fatal(err)
	}
	// Several looks of the companion later the second one still has its agent.
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if _, err := control.List(t.Context(), filepath.Join(dir, "run/s")); err != nil {
			t.Fatalf("the agent ended under the second container: %v", err)
		}
	}
	create(t, dir, "end")
	if out, err := second(); err != nil {
		t.Errorf("docker: %q, %v", out, err)
	}
	until(t, "socket and lock are gone", func() bool { return gone(dir, "run/s")() && gone(dir, "run/run.lock")() })
}

// TestAgentThatIsToldToEndWaitsForDocker: as when a service whose command is taskrole run is stopped.
func TestAgentThatIsToldToEndWaitsForDocker(t *testing.T) {
	dir := alone(t)
	wait := taskroleRun(t, dir, "alpine")
	until(t, "docker runs", there(dir, "started"))
	create(t, dir, "container")
	terminate(t, filepath.Join(dir, "config.yaml"))
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if _, err := control.List(t.Context(), filepath.Join(dir, "run/s")); err != nil {
			t.Fatalf("the agent ended while docker ran: %v", err)
		}
	}
	create(t, dir, "end")
	if out, err := wait(); err != nil {
		t.Errorf("docker: %q, %v", out, err)
	}
	until(t, "the agent has ended, though a container holds a role", gone(dir, "run/s"))
}

// terminate sends SIGTERM to the companion.
func terminate(t *testing.T, config string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		words, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(words), "\x00serve\x00"+config+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err := errors.Join(err, syscall.Kill(pid, syscall.SIGTERM)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no companion")
}

func TestAgentThatFailsStartsNothingAndLeavesNothing(t *testing.T) {
	dir := alone(t)
	create(t, dir, "fail")
	if out, err := taskroleRun(t, dir, "alpine")(); err == nil || !strings.Contains(out, "this kernel is too old: run a newer one [kernel-unsupported]") {
		t.Errorf("%q, %v", out, err)
	}
	if there(dir, "started")() {
		t.Error("docker was run without an agent")
	}
	until(t, "socket and lock are gone", func() bool { return gone(dir, "run/s")() && gone(dir, "run/run.lock")() })
}

func TestRestartNeedsAnAgentThatStays(t *testing.T) {
	dir := alone(t)
	for _, restart := range []string{"--restart=always", "--restart=unless-stopped", "--restart=on-failure:3"} {
		if out, err := taskroleRun(t, dir, restart, "alpine")(); err == nil || !strings.Contains(out, "[arguments-contradict]") {
			t.Errorf("%s: %q, %v", restart, out, err)
		}
	}
	if there(dir, "run")() {
		t.Error("a refusal left something beside the socket")
	}
}
