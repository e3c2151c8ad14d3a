// Command taskrole-agent is the agent that serves roles to the containers of a host, and nothing beside it: the program that
// holds the credentials. "taskrole agent" becomes it.
package main

import (
	"context"
	"log/slog"
	"os"

	"taskrole/internal/agent"
	"taskrole/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stderr,
		func(ctx context.Context, path string, logger *slog.Logger, reload <-chan os.Signal) error {
			return agent.Run(ctx, agent.Options{ConfigPath: path, Logger: logger, Reload: reload})
		}))
}
