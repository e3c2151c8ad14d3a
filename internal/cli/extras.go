package cli

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"taskrole/internal/setup"
)

// extras are the files that are made of the commands: completions, and the manual.
func extras(root *cobra.Command) ([]setup.File, error) {
	var files []setup.File
	for _, c := range []struct {
		path string
		make func(*bytes.Buffer) error
	}{
		{"share/bash-completion/completions/taskrole", func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) }},
		{"share/zsh/site-functions/_taskrole", func(b *bytes.Buffer) error { return root.GenZshCompletion(b) }},
		{"share/fish/vendor_completions.d/taskrole.fish", func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) }},
	} {
		var b bytes.Buffer
		if err := c.make(&b); err != nil {
			return nil, fmt.Errorf("make %s: %w", c.path, err)
		}
		files = append(files, setup.File{Path: c.path, Data: b.Bytes()})
	}
	for _, page := range pages(root) {
		files = append(files, setup.File{Path: "share/man/" + page.Path(), Data: page.Roff()})
	}
	return files, nil
}
