package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"taskrole/internal/cli"
	"taskrole/internal/testkit"
)

func TestEveryCommandHasAnExampleAndIsInTheManual(t *testing.T) {
	text, err := os.ReadFile("../../doc/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := cli.Commands()
	if len(commands) < 5 {
		t.Fatalf("there are only %d commands", len(commands))
	}
	for _, c := range commands {
		if c.Short == "" || !strings.Contains(c.Example, "taskrole") || strings.HasPrefix(c.Example, "\n") {
			t.Errorf("%s has no sentence or no example: %q, %q", c.CommandPath(), c.Short, c.Example)
		}
		if !strings.Contains(string(text), "`"+c.CommandPath()+"`") && !strings.Contains(string(text), "## "+c.CommandPath()+"\n") {
			t.Errorf("doc/commands.md says nothing of `%s`", c.CommandPath())
		}
	}
}

// What man(1) would complain of, and what must be in the pages.
func TestManualPagesAreFormatted(t *testing.T) {
	testkit.Need(t, testkit.Groff)
	root := t.TempDir()
	files := cli.Extras(t)
	for path, want := range map[string][]string{
		"share/man/man1/taskrole.1":       {"taskrole setup [flags]", "--restart-docker", "EXIT STATUS", "taskrole setup --remove"},
		"share/man/man8/taskrole-agent.8": {"taskrole agent [flags]", "SIGHUP", "EXIT STATUS"},
		"share/man/man5/taskrole.yaml.5":  {"engines.docker", "Allowed: above 0, up to 1000.", "AT THE TOP"},
	} {
		i := slices.IndexFunc(files, func(f cli.Extra) bool { return f.Path == path })
		if i < 0 {
			t.Errorf("there is no %s", path)
			continue
		}
		file := filepath.Join(root, filepath.Base(path))
		if err := os.WriteFile(file, files[i].Data, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("groff", "-K", "utf8", "-t", "-ww", "-T", "utf8", "-man", "-P-cbou", "-rLL=100n", file)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Errorf("groff %s: %v\n%s", path, err, stderr.String())
		}
		words := strings.Join(strings.Fields(string(out)), " ")
		for _, w := range want {
			if !strings.Contains(words, w) {
				t.Errorf("%s does not have %q:\n%s", path, w, out)
			}
		}
	}
}
