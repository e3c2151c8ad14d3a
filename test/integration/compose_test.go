//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"taskrole/lab/cloud"
)

// composed is an application and two that share its network. It asks by CDI, the one with another role by the runtime.
const composed = `
services:
  app:
    image: probe
    pull_policy: never
    command: [sleep, 10m]
    cap_drop: [NET_RAW]
    devices: [taskrole/role=reader]
  sidecar:
    image: probe
    pull_policy: never
    command: [sleep, 10m]
    cap_drop: [NET_RAW]
    network_mode: service:app
    runtime: taskrole
    environment: {TASKROLE: writer}
  plain:
    image: probe
    pull_policy: never
    command: [sleep, 10m]
    cap_drop: [NET_RAW]
    network_mode: service:app
`

// TestCompose: network_mode service:app, with two roles and with none.
func TestCompose(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	// Where the client sees it: it runs in the engine's root.
	file := filepath.Join(filepath.Dir(w.docker.Log()), "compose.yaml")
	if err := os.WriteFile(file, []byte(composed), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := func(words ...string) []string {
		return append([]string{"compose", "--project-name=composed", "--file=" + file}, words...)
	}
	t.Cleanup(func() {
		if r, err := w.docker.Exec(context.WithoutCancel(t.Context()), compose("down", "--timeout=1")...); err != nil || r.Exit != 0 {
			t.Errorf("compose down: %v %s", err, r.Stderr)
		}
	})
	w.must(t, compose("up", "--detach")...)
	app, sidecar, plain := w.must(t, compose("ps", "-q", "app")...), w.must(t, compose("ps", "-q", "sidecar")...), w.must(t, compose("ps", "-q", "plain")...)
	check := func() {
		t.Helper()
		wantCredentials(t, w.credentialsOf(t, app), cloud.TaskReader)
		wantCredentials(t, w.credentialsOf(t, sidecar), cloud.TaskWriter)
		wantNotTheirs(t, w.credentialsOf(t, plain))
	}
	check()
	w.must(t, compose("restart", "--timeout=1", "sidecar")...)
	check()
}
