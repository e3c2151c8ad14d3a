package cli_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/cli"
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

type result struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, agent cli.Agent, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(t.Context(), cli.Options{Args: args, Stdout: &stdout, Stderr: &stderr, Agent: agent, Describe: describe, Refused: known})
	return result{code, stdout.String(), stderr.String()}
}

func describe(cfg *config.Config) []control.Role {
	var roles []control.Role
	for _, r := range cfg.Roles {
		roles = append(roles, control.Role{Name: r.Name, ARN: r.ARN.String(), Allow: []string{"any container"}})
	}
	return roles
}

func answer(err error) cli.Agent {
	return func(context.Context, string, *slog.Logger, <-chan os.Signal) error { return err }
}

func TestWrongWordsAreUsage(t *testing.T) {
	for _, args := range [][]string{
		{"agnet"},
		{"agent", "now"},
		{"agent", "--conf", "x"},
		{"agent", "--log-level", "loud"},
		{"config", "chekc"},
		{"config", "check", "a", "b"},
		{"audit", "x"},
		{"audit", "--json", "--sarif"},
		{"doctor", "a", "b"},
		{"doctor", "a", "--pid=1"},
		{"doctor", "--image=a", "--pid=1"},
		{"doctor", "--image=a", "b"},
		{"version", "x"},
		{"env"},
		{"ps", "x"},
		{"env", "a", "b"},
		{"env", "a", "--instance"},
		{"env", "a", "--imdsv1"},
		{"env", "a", "--format", "csh"},
		{"--verbose"},
	} {
		r := run(t, answer(nil), args...)
		if r.code != fault.ExitUsage || !strings.HasPrefix(r.stderr, "taskrole: error: ") ||
			!strings.Contains(r.stderr, "[usage]\ntaskrole: hint: ") || r.stdout != "" {
			t.Errorf("taskrole %q: exit %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, args := range [][]string{{}, {"agent"}, {"audit"}, {"config", "check"}, {"doctor"}, {"exec"}, {"run"}, {"version"}, {"roles"}, {"env"}, {"ps"}} {
		r := run(t, answer(nil), append(args, "--help")...)
		if r.code != fault.ExitOK || !strings.Contains(r.stdout, "Examples:\n  taskrole") {
			t.Errorf("taskrole %q --help: exit %d, stdout %q", args, r.code, r.stdout)
		}
	}
}

func TestFaultsOfTheAgentAreShownAndLoggedWithTheirCause(t *testing.T) {
	r := run(t, answer(fault.Wrap(errors.New("the cause"), fault.AgentRunning, "another agent is there", "stop it")), "agent")
	if r.code != fault.ExitFault {
		t.Errorf("exit %d, want %d", r.code, fault.ExitFault)
	}
	if want := "taskrole: error: another agent is there [agent-running]\ntaskrole: hint: stop it\n"; !strings.HasSuffix(r.stderr, want) {
		t.Errorf("stderr = %q, want it to end in %q", r.stderr, want)
	}
	if !strings.Contains(r.stderr, `"error":"the cause"`) {
		t.Errorf("stderr = %q, want the cause in the log", r.stderr)
	}
}

func TestProblemsOfTheConfigurationAreListed(t *testing.T) {
	r := run(t, answer(config.Problems{
		{File: "c.yaml", Line: 3, Col: 1, Path: "roles", What: "is empty"},
		{File: "c.yaml", Line: 4, Col: 2, Path: "x", What: "is unknown"},
	}), "agent", "--config", "c.yaml")
	want := "c.yaml:3:1: roles: is empty\nc.yaml:4:2: x: is unknown\ntaskrole: error: c.yaml has 2 problems [config-invalid]\n" +
		"taskrole: hint: correct the file; \"taskrole config check c.yaml\" looks again\n"
	if r.code != fault.ExitUsage || r.stderr != want {
		t.Errorf("exit %d, stderr %q\nwant 2, %q", r.code, r.stderr, want)
	}
}

func TestSignalsReachTheAgent(t *testing.T) {
	agent := func(ctx context.Context, path string, logger *slog.Logger, reload <-chan os.Signal) error {
		if path != cli.DefaultConfig {
			t.Errorf("configuration = %q, want the default", path)
		}
		logger.DebugContext(ctx, "hidden")
		logger.InfoContext(ctx, "shown")
		syscall.Kill(os.Getpid(), syscall.SIGHUP)
		select {
		case <-reload:
		case <-time.After(4 * time.Second):
			t.Error("SIGHUP does not reach the agent")
		}
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {
		case <-ctx.Done():
		case <-time.After(4 * time.Second):
			t.Error("SIGTERM does not end the context")
		}
		return nil
	}
	r := run(t, agent, "agent")
	if r.code != fault.ExitOK {
		t.Errorf("exit %d, want 0", r.code)
	}
	if strings.Contains(r.stderr, "hidden") || !strings.Contains(r.stderr, `"msg":"shown"`) {
		t.Errorf("log = %q, want level info as JSON", r.stderr)
	}
}

func TestLogInAFileIsJSON(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	agent := func(ctx context.Context, _ string, logger *slog.Logger, _ <-chan os.Signal) error {
		logger.WarnContext(ctx, "here")
		return nil
	}
	cli.Run(t.Context(), cli.Options{Args: []string{"agent"}, Stdout: f, Stderr: f, Agent: agent})
	b, err := os.ReadFile(f.Name())
	if err != nil || !strings.HasPrefix(string(b), `{"time":`) {
		t.Errorf("log = %q, %v, want JSON with the time", b, err)
	}
}
