//go:build integration

package integration

import (
	"context"
	"testing"

	"taskrole/internal/container"
)

// plans are conditions of what is not started yet: an image and docker run's arguments.
func (w *world) plans(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	w.prepare(t)
	// A container whose command holds a key, and an image of it: the key is in the image's history for good.
	w.must(t, "create", "--name=doctor-made", "--network=none", "probe", "env", theAKIA)
	w.removeLater(t, "doctor-made")
	w.must(t, "commit", "doctor-made", "history-image")
	w.must(t, "commit", "--change=ENV AWS_ACCESS_KEY_ID="+theAKIA, "--change=ENV AWS_SECRET_ACCESS_KEY="+theSecret, "doctor-made", "env-image")
	t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rmi", "history-image", "env-image") })
	for _, p := range []struct {
		name, want, image string
		args              []string
	}{
		{"key in the image's history", "keys-long-lived-in-image", "history-image", []string{"--device=taskrole/role=reader"}},
		{"key in the image's environment", "keys-long-lived keys-long-lived-in-image", "env-image", []string{"--network=none"}},
		{"a role", "", "probe", []string{"--device=taskrole/role=reader"}},
		{"no network", "imds-unreachable", "probe", []string{"--network=none"}},
		{"token forgotten", "session-token-missing", "probe", []string{"-e", session[0], "-e", session[1]}},
		{"policy says no", "role-refused", "probe", []string{"--device=taskrole/role=keeper", "--name=somebody"}},
		{"no such role", "role-refused", "probe", []string{"--device=taskrole/role=raeder"}},
		{"variable without the runtime", "role-not-attached", "probe", []string{"-e", "TASKROLE=reader"}},
	} {
		args := []string{"--sdk=all", "--image=" + p.image, "--", "-e", regions[0], "-e", regions[1]}
		d := w.diagnose(t, append(args, p.args...)...)
		all.add(trial{"before the start: " + p.name, w.name, p.want, d.codes(), d.Seconds})
		injected{name: p.name, want: p.want}.judge(t, d)
	}
	// The same image in a container that runs.
	i := injected{name: "key in the history of its image", want: "keys-long-lived-in-image", c: with(session...), evidence: "layer"}
	i.c.Image = "history-image"
	if w.way == container.WayCDI {
		w.try(t, all, []injected{i})
	}
}
