package envfile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/envfile"
	"taskrole/internal/testkit"
)

// The real shells read what is written for them. PowerShell is in no release of Debian: its format is tried in
// FuzzWrite alone, against a reader of its documented grammar.
func TestShellsReadWhatIsWrittenForThem(t *testing.T) {
	testkit.Need(t, testkit.Shells)
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		shell, source string
		format        envfile.Format
	}{
		{"dash", `. "$1"`, envfile.Shell},
		{"bash", `. "$1"`, envfile.Shell},
		{"bash", `eval "$(cat "$1")"`, envfile.Shell},
		{"zsh", `. "$1"`, envfile.Shell},
		{"fish", `source $argv[1]`, envfile.Fish},
	} {
		t.Run(c.shell, func(t *testing.T) {
			for _, value := range nasty {
				b, err := envfile.Write(c.format, session(value, value, "eu-west-1"), expires.Add(-time.Hour))
				if err != nil {
					t.Errorf("%q: %v", value, err)
					continue
				}
				dir := t.TempDir()
				file := filepath.Join(dir, "env")
				if err := os.WriteFile(file, b, 0o600); err != nil {
					t.Fatal(err)
				}
				args := []string{"-c", c.source + "; exec " + env + " -0", "sh", file}
				if c.shell == "fish" {
					args = []string{"--no-config", "-c", c.source + "; exec " + env + " -0", file}
				}
				cmd := exec.Command(c.shell, args...)
				cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "LANG=C.UTF-8"}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%q: %v\n%s", value, err, out)
					continue
				}
				if diff := cmp.Diff(want(value, value, "eu-west-1"), awsVariables(string(out))); diff != "" {
					t.Errorf("%q (-want +got):\n%s", value, diff)
				}
			}
		})
	}
}

// awsVariables reads the output of env -0.
func awsVariables(out string) map[string]string {
	m := map[string]string{}
	for kv := range strings.SplitSeq(out, "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, "AWS_") {
			m[name] = value
		}
	}
	return m
}
