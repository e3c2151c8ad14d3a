package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/fault"
	"taskrole/internal/table"
	"taskrole/internal/terminal"
)

// configFlag adds --config to a command that asks the agent.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", DefaultConfig, "configuration `file`, which says where the agent listens")
}

// socketOf is where the agent listens, as its configuration says. A file that cannot be read or used keeps nobody from
// asking an agent that runs: it is at the usual place then.
func socketOf(configPath string) string {
	cfg, err := config.Load(configPath)
	if err != nil {
		return config.DefaultSocket
	}
	return cfg.Socket
}

// window says for whom a table on w is.
func window(w io.Writer) table.Options {
	return table.Options{Width: terminal.Width(w, os.Getenv), Colour: terminal.Colour(w, os.Getenv)}
}

// printJSON writes an answer for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fault.As(fmt.Errorf("write the answer: %w", err))
	}
	return nil
}

func printText(w io.Writer, s string) error {
	if _, err := io.WriteString(w, s); err != nil {
		return fault.As(fmt.Errorf("write the answer: %w", err))
	}
	return nil
}
