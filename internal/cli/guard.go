package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"taskrole/internal/fault"
)

func newGuard(o Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "guard",
		Short: "What keeps containers off the host's own identity",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "remove",
		Short: "Remove the guard's nftables table",
		Long: `Removes the nftables table inet taskrole-guard, which stays when an agent with the
guard on ends. It needs root and no agent. An agent that runs with the guard on puts
the table back: set guard to off in its configuration instead, and reload it.`,
		Example: `  systemctl stop taskrole && taskrole guard remove`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return removeGuard(o) },
	})
	return c
}

func removeGuard(o Options) error {
	was, err := o.RemoveGuard()
	if err != nil {
		return err
	}
	answer := "the guard's table is removed"
	if !was {
		answer = "there is no table of the guard"
	}
	if _, err := fmt.Fprintln(o.Stdout, answer); err != nil {
		return fault.As(fmt.Errorf("write the answer: %w", err))
	}
	return nil
}
