package cli_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"taskrole/internal/cli"
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
)

type result struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, agent daemon.Agent, args ...string) result {
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

func answer(err error) daemon.Agent {
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

func TestAgentBecomesItsProgram(t *testing.T) {
	var got []string
	code := cli.Run(t.Context(), cli.Options{
		Args: []string{"agent", "--config", "c.yaml", "--log-level", "debug"}, Stdout: io.Discard, Stderr: io.Discard,
		BecomeAgent: func(args []string) error { got = args; return fault.New(fault.ProgramMissing, "not there", "") },
	})
	if want := []string{"taskrole-agent", "--config=c.yaml", "--log-level=debug"}; code != fault.ExitFault || !slices.Equal(got, want) {
		t.Errorf("exit %d, words %q, want %d and %q", code, got, fault.ExitFault, want)
	}
}
