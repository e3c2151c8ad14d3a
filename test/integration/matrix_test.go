//go:build integration

package integration

import (
	"strings"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// TestPodmanTellsTheNameWhileItHoldsTheLock: a rule asks for the name while Podman starts the container.
func TestPodmanTellsTheNameWhileItHoldsTheLock(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		for _, way := range w.docker.WaysIn() {
			who := whoAmI(t, w.start(t, ec2.Container{Role: "keeper", Name: "keeper-" + string(way), Way: way}))
			if !strings.Contains(who.ARN, "assumed-role/"+cloud.TaskReader+"/") {
				t.Errorf("%s: keeper is %q (%s)", way, who.ARN, who.Errors.First())
			}
			before := len(w.log())
			// crun drops the hook's words, so they are looked for where the documentation says they are.
			if r := w.start(t, ec2.Container{Role: "keeper", Name: "other-" + string(way), Way: way}); r.Exit == 0 || len(r.Stdout) > 0 {
				t.Errorf("%s: another name started: %s", way, r.Stdout)
			}
			if said := w.log()[before:]; !strings.Contains(said, "role-not-allowed") || !strings.Contains(said, "other-"+string(way)) {
				t.Errorf("%s: the agent says %s", way, said)
			}
		}
	})
}

func TestRoleOnPodmanAndContainerd(t *testing.T) {
	for _, e := range others {
		onOther(t, e.name, func(t *testing.T, w *world) {
			for _, way := range w.docker.WaysIn() {
				for _, network := range []ec2.Network{ec2.NetworkNone, ec2.NetworkBridge} {
					wantRole(t, w.start(t, ec2.Container{Role: "reader", Network: network, Way: way}), cloud.TaskReader)
				}
			}
		})
	}
}
