package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
)

func newConfig(o Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Look at the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "check [FILE]",
		Short: "Say everything that is wrong with the configuration file",
		Long: `Reads the configuration as the agent does and prints every problem, one a line, as
FILE:LINE:COLUMN: KEY: what is wrong; allowed: what may stand there.
Exit status 2 if there is one. Nothing is changed, and a running agent is not asked.`,
		Example: `  taskrole config check
  taskrole config check ./config.yaml && systemctl reload taskrole`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := DefaultConfig
			if len(args) > 0 {
				path = args[0]
			}
			return checkConfig(o, path)
		},
	})
	return c
}

func checkConfig(o Options, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return daemon.ConfigFault(o.Stdout, path, err)
	}
	count := "1 role"
	if len(cfg.Roles) != 1 {
		count = fmt.Sprintf("%d roles", len(cfg.Roles))
	}
	if _, err := fmt.Fprintf(o.Stdout, "%s: ok, %s\n", path, count); err != nil {
		return fault.As(fmt.Errorf("write the answer: %w", err))
	}
	return nil
}
