package daemon_test

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

	"taskrole/internal/config"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
)

type result struct {
	code   int
	stderr string
}

func run(t *testing.T, agent daemon.Agent, args ...string) result {
	t.Helper()
	var stderr bytes.Buffer
	code := daemon.Main(t.Context(), args, &stderr, agent)
	return result{code, stderr.String()}
}

func answer(err error) daemon.Agent {
	return func(context.Context, string, *slog.Logger, <-chan os.Signal) error { return err }
}

func TestWrongWordsAreUsage(t *testing.T) {
	for _, args := range [][]string{{"now"}, {"--conf", "x"}, {"--config"}, {"--log-level", "loud"}, {"--help"}} {
		r := run(t, answer(nil), args...)
		if r.code != fault.ExitUsage || !strings.HasPrefix(r.stderr, "taskrole: error: ") || !strings.Contains(r.stderr, "[usage]\ntaskrole: hint: ") {
			t.Errorf("taskrole-agent %q: exit %d, stderr %q", args, r.code, r.stderr)
		}
	}
}

func TestWordsOfTheCommandLineAreUnderstood(t *testing.T) {
	var got string
	r := run(t, func(ctx context.Context, path string, logger *slog.Logger, _ <-chan os.Signal) error {
		got = path
		logger.DebugContext(ctx, "seen")
		return nil
	}, daemon.Args("/a b/c.yaml", "debug")[1:]...)
	if r.code != fault.ExitOK || got != "/a b/c.yaml" || !strings.Contains(r.stderr, "seen") {
		t.Errorf("exit %d, configuration %q, log %q", r.code, got, r.stderr)
	}
}

func TestFaultsOfTheAgentAreShownAndLoggedWithTheirCause(t *testing.T) {
	r := run(t, answer(fault.Wrap(errors.New("the cause"), fault.AgentRunning, "another agent is there", "stop it")))
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
	}), "--config", "c.yaml")
	want := "c.yaml:3:1: roles: is empty\nc.yaml:4:2: x: is unknown\ntaskrole: error: c.yaml has 2 problems [config-invalid]\n" +
		"taskrole: hint: correct the file; \"taskrole config check c.yaml\" looks again\n"
	if r.code != fault.ExitUsage || r.stderr != want {
		t.Errorf("exit %d, stderr %q\nwant 2, %q", r.code, r.stderr, want)
	}
}

func TestSignalsReachTheAgent(t *testing.T) {
	agent := func(ctx context.Context, path string, logger *slog.Logger, reload <-chan os.Signal) error {
		if path != daemon.DefaultConfig {
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
	r := run(t, agent)
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
	daemon.Main(t.Context(), nil, f, agent)
	b, err := os.ReadFile(f.Name())
	if err != nil || !strings.HasPrefix(string(b), `{"time":`) {
		t.Errorf("log = %q, %v, want JSON with the time", b, err)
	}
}
