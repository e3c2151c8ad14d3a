package launch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/launch"
)

// agent is the host's agent, as far as it names its roles.
type agent struct {
	control.Handler
	control.Operator
}

func (agent) Roles(context.Context) ([]control.Role, error) {
	return []control.Role{{Name: "reader"}, {Name: "writer"}}, nil
}

// world has an agent and an engine's command line that says what the test wants.
type world struct {
	config string
	uid    int
	ran    []string // what Run became
}

func newWorld(t *testing.T, engine, script string) *world {
	t.Helper()
	return newWorldFor(t, engine, script, nil)
}

// newWorldFor has an agent that answers everybody with peers.
func newWorldFor(t *testing.T, engine, script string, peers error) *world {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, agent{}, slog.New(slog.DiscardHandler), control.WithOperator(agent{}), control.WithPeers(func(uint32) error { return peers }))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w := &world{config: filepath.Join(dir, "config.yaml")}
	text := fmt.Sprintf("account: \"123456789012\"\nsocket: %s\ncdi: {dir: /etc/cdi}\nroles: {reader: {allow: [{any: true}]}}\n", socket)
	if err := errors.Join(
		os.WriteFile(w.config, []byte(text), 0o600), os.Mkdir(filepath.Join(dir, "bin"), 0o700),
		os.WriteFile(filepath.Join(dir, "bin", engine), []byte("#!/bin/sh\n"+script), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":/usr/bin:/bin")
	return w
}

func (w *world) run(t *testing.T, engine, role string, args ...string) error {
	t.Helper()
	return launch.Run(t.Context(), launch.Options{
		Engine: engine, Role: role, Args: args, ConfigPath: w.config, Env: os.Environ(), UID: w.uid,
		Exec: func(_ string, argv, _ []string) error {
			w.ran = argv
			return errors.New("not in a test")
		},
	})
}

func TestTheEnginesOwnCommandIsRun(t *testing.T) {
	for name, c := range map[string]struct{ engine, info, want string }{
		"CDI":     {launch.Docker, `{"ServerVersion":"28.5.2","CDISpecDirs":["/etc/cdi"]}`, "docker run --device=taskrole/role=reader --rm -e A=b alpine --runtime x"},
		"runtime": {launch.Docker, `{"ServerVersion":"20.10.24","Runtimes":{"taskrole":{}}}`, "docker run --runtime=taskrole --env=TASKROLE=reader --rm -e A=b alpine --runtime x"},
		"label":   {launch.Docker, `{"ServerVersion":"20.10.24"}`, "docker run --label=taskrole=reader --rm -e A=b alpine --runtime x"},
		"podman":  {launch.Podman, `{"version":{"Version":"5.8.6"}}`, "podman run --device=taskrole/role=reader --rm -e A=b alpine --runtime x"},
	} {
		w := newWorld(t, c.engine, "echo '"+c.info+"'")
		err := w.run(t, c.engine, "reader", "--rm", "-e", "A=b", "alpine", "--runtime", "x")
		if got := strings.Join(w.ran, " "); got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestRefusalsComeBeforeTheEngineIsRun(t *testing.T) {
	const fine = `echo '{"ServerVersion":"28.5.2","CDISpecDirs":["/etc/cdi"]}'`
	for name, c := range map[string]struct {
		script string
		role   string
		args   []string
		code   fault.Code
		says   string
	}{
		"unknown role":  {fine, "raeder", nil, fault.RoleUnknown, "did you mean reader?"},
		"contradiction": {fine, "reader", []string{"--device=taskrole/role=writer"}, fault.ArgumentsContradict, "taskrole/role=writer"},
		"engine away": {
			"echo 'Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?' >&2; exit 1", "reader", nil,
			fault.EngineUnreachable, "Cannot connect to the Docker daemon",
		},
		"no permission": {"echo 'permission denied while trying to connect to the docker API' >&2; exit 1", "reader", nil, fault.PermissionDenied, "group docker"},
		"silent":        {"exit 3", "reader", nil, fault.EngineUnreachable, "exit status 3"},
		"no JSON":       {"echo hello", "reader", nil, fault.EngineUnreachable, "no JSON"},
		"a runtime twice": {
			`echo '{"Runtimes":{"taskrole":{}}}'`, "reader", []string{"--runtime", "runsc", "alpine"}, fault.ArgumentsContradict, "--runtime runsc",
		},
	} {
		w := newWorld(t, launch.Docker, c.script)
		err := w.run(t, launch.Docker, c.role, c.args...)
		if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || w.ran != nil {
			t.Errorf("%s: %v, ran %q; want %s with %q", name, err, w.ran, c.code, c.says)
		}
	}
}

func TestEngineThatIsNotInstalled(t *testing.T) {
	w := newWorld(t, launch.Podman, "exit 1")
	t.Setenv("PATH", strings.Split(os.Getenv("PATH"), ":")[0])
	if err := w.run(t, launch.Docker, "reader"); fault.CodeOf(err) != fault.EngineMissing || !strings.Contains(err.Error(), "--engine podman") {
		t.Errorf("Run() = %v, want engine-missing that offers the other", err)
	}
}

// TestWhoIsNotRoot may run what docker lets him run: the agent cannot be asked, and the configuration is where it can be
// read.
func TestWhoIsNotRoot(t *testing.T) {
	const fine = `echo '{"ServerVersion":"28.5.2","CDISpecDirs":["/etc/cdi"]}'`
	w := newWorldFor(t, launch.Docker, fine, fault.New(fault.PermissionDenied, "only root may", ""))
	w.uid = 1000
	if err := w.run(t, launch.Docker, "reader", "alpine"); strings.Join(w.ran, " ") != "docker run --device=taskrole/role=reader alpine" {
		t.Errorf("ran %q, %v", w.ran, err)
	}
	w.ran = nil
	if err := w.run(t, launch.Docker, "raeder", "alpine"); fault.CodeOf(err) != fault.RoleUnknown || w.ran != nil {
		t.Errorf("ran %q, %v, want role-unknown by the configuration", w.ran, err)
	}
}

func TestOnlyRootDoesWithoutAnAgent(t *testing.T) {
	w := &world{config: filepath.Join(t.TempDir(), "config.yaml"), uid: 1000}
	text := "account: \"123456789012\"\nsocket: " + filepath.Join(filepath.Dir(w.config), "s") + "\nroles: {reader: {allow: [{any: true}]}}\n"
	if err := errors.Join(os.WriteFile(w.config, []byte(text), 0o600), os.WriteFile(filepath.Join(filepath.Dir(w.config), "docker"), []byte("#!/bin/sh\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(w.config))
	if err := w.run(t, launch.Docker, "reader", "alpine"); fault.CodeOf(err) != fault.AgentUnreachable || !strings.Contains(err.Error(), "only root") || w.ran != nil {
		t.Errorf("ran %q, %v, want agent-unreachable", w.ran, err)
	}
}
