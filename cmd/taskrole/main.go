// Command taskrole is the command line: it starts the agent, asks it, explains, installs. It refuses to be the agent of a host,
// which is taskrole-agent, and to be in the path of a container's start: that is taskrole-runtime, which asks the agent.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"taskrole/internal/agent"
	"taskrole/internal/cli"
	"taskrole/internal/daemon"
	"taskrole/internal/doctor"
	"taskrole/internal/fault"
)

func main() {
	os.Exit(cli.Run(context.Background(), cli.Options{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
		BecomeAgent: becomeAgent,
		Agent: func(ctx context.Context, path string, logger *slog.Logger, reload <-chan os.Signal) error {
			return agent.Run(ctx, agent.Options{ConfigPath: path, Logger: logger, Reload: reload})
		},
		Describe:    agent.Roles,
		Refused:     doctor.Refused,
		RemoveGuard: agent.RemoveGuard,
		Audit: func(ctx context.Context, q cli.AuditQuery, out io.Writer) error {
			return doctor.Audit(ctx, doctor.AuditQuery(q), out)
		},
		Doctor: func(ctx context.Context, q cli.DoctorQuery, out io.Writer) error {
			return doctor.Run(ctx, doctor.Query(q), out)
		},
	}))
}

// becomeAgent executes the agent's program, which lies beside this one.
func becomeAgent(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fault.As(err)
	}
	program := filepath.Join(filepath.Dir(self), daemon.Program)
	err = syscall.Exec(program, args, os.Environ()) //nolint:gosec // our own program, beside us
	return fault.Wrap(err, fault.ProgramMissing, fmt.Sprintf("%s cannot be executed: %v", program, err),
		"install taskrole, taskrole-agent and taskrole-runtime of one release side by side")
}
