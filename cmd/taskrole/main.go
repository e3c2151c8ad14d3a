// Command taskrole is the agent that serves roles to the containers of a host, and the command line beside it. It
// refuses to be in the path of a container's start: that is taskrole-runtime, which asks it.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"taskrole/internal/agent"
	"taskrole/internal/cli"
	"taskrole/internal/doctor"
)

func main() {
	os.Exit(cli.Run(context.Background(), cli.Options{
		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
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
