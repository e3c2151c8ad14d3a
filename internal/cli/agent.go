package cli

import (
	"github.com/spf13/cobra"

	"taskrole/internal/daemon"
)

func newAgent(o Options) *cobra.Command {
	var configPath, level string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve roles to the containers of this host",
		Long: `Runs the agent in the foreground until SIGTERM or SIGINT. It needs root. SIGHUP makes
it read the configuration again; if the new one has problems it keeps the old one.
Logs go to stderr: text on a terminal, JSON otherwise.

The agent is a program of its own, taskrole-agent, beside taskrole, which this command
becomes: what holds everybody's credentials contains nothing of the other commands.`,
		Example: `  taskrole agent
  taskrole agent --config ./config.yaml --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := daemon.NewLogger(o.Stderr, level); err != nil {
				return err // the words are judged here, where --help is
			}
			return o.BecomeAgent(daemon.Args(configPath, level))
		},
	}
	c.Flags().StringVar(&configPath, "config", DefaultConfig, "configuration `file`")
	c.Flags().StringVar(&level, "log-level", daemon.DefaultLevel, "what is logged: debug, info, warn or error")
	return c
}
