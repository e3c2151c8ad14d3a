//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// The example as it is, by Debian's Compose, with the probe for an image.
func TestComposeExample(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		file := "compose.yaml"
		if w.way == container.WayShim {
			file = "compose.runtime.yaml"
		}
		path, err := filepath.Abs(filepath.Join("../../examples/compose", file))
		if err != nil {
			t.Fatal(err)
		}
		compose := func(args ...string) ec2.Result {
			t.Helper()
			words := []string{"timeout", "60", filepath.Join(tree("forky"), "usr/libexec/docker/cli-plugins/docker-compose"), "--file", path, "--project-name", "example"}
			return w.host(t, []string{"IMAGE=probe", "COMMAND=identity"}, append(words, args...)...)
		}
		defer func() {
			if r := compose("down", "--timeout=0"); r.Exit != 0 {
				t.Errorf("down: exit %d, %s", r.Exit, r.Stderr)
			}
		}()
		if r := compose("up", "--detach", "--pull=never"); r.Exit != 0 {
			t.Fatalf("up: exit %d, %s", r.Exit, r.Stderr)
		}
		for service, role := range map[string]string{"reports": cloud.TaskReader, "uploads": cloud.TaskWriter, "plain": ""} {
			w.must(t, "wait", "example-"+service+"-1")
			who := whoAmI(t, compose("logs", "--no-log-prefix", service))
			switch {
			case role == "" && who.Errors.Credentials == "":
				t.Errorf("%s, which has no role, is %+v", service, who)
			case role != "" && !strings.Contains(who.ARN, ":assumed-role/"+role+"/"):
				t.Errorf("%s is %+v, want %s", service, who, role)
			}
		}
	})
}
