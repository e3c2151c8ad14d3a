package cli

import (
	"testing"

	"github.com/spf13/cobra"

	"taskrole/internal/setup"
)

// Extra is a file that setup installs.
type Extra = setup.File

// Commands are the commands that people call.
func Commands() []*cobra.Command {
	var list []*cobra.Command
	walk(newRoot(Options{}), func(c *cobra.Command) {
		if c.HasParent() && !c.HasSubCommands() {
			list = append(list, c)
		}
	})
	return list
}

// Extras are the completions and the manual.
func Extras(t *testing.T) []Extra {
	t.Helper()
	files, err := extras(newRoot(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
