//go:build integration

package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// labelled starts a container that asks for its role by label alone and stays.
func (w *world) labelled(tb testing.TB, role string) string {
	tb.Helper()
	return w.live(tb, ec2.Container{Labels: map[string]string{"taskrole": role}})
}

// becomes waits until the container is attached, and checks that it is the role and by which way it came.
func (w *world) becomes(tb testing.TB, id string, way container.Way, role string) {
	tb.Helper()
	eventually(tb, func() error {
		for _, a := range w.attached(tb) {
			if string(a.ID) == id && a.PID == w.pid(tb, id) {
				if a.Way != way {
					return permanent{fmt.Errorf("the container came by %s, want %s", a.Way, way)}
				}
				return nil
			}
		}
		return fmt.Errorf("container %s is not attached", id)
	})
	who := whoAmI(tb, w.exec(tb, id, "identity"))
	if want := "arn:aws:sts::123456789012:assumed-role/" + role + "/"; !strings.HasPrefix(who.ARN, want) {
		tb.Errorf("the container is %q (%s), want %s…", who.ARN, who.Errors.First(), want)
	}
}

func TestLabelledContainerGetsItsRoleWhileItRuns(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.labelled(t, "reader")
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		w.must(t, "restart", "--time=1", id)
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		w.must(t, "kill", id)
		eventually(t, func() error { return w.idle(t) })
	})
}

func TestLabelledContainerThatRunsAlreadyGetsItsRole(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		if err := w.stopAgent(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		id := w.labelled(t, "reader")
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)

		// It keeps its session for its life, also when another agent finds it by both its record and its label.
		before := w.attached(t)
		if err := w.stopAgent(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		after := w.attached(t)
		if len(before) != 1 || len(after) != 1 || before[0].Session != after[0].Session {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if n := w.listeners(t, id); n != 1 {
			t.Errorf("%d listeners in the container, want 1", n)
		}
	})
}
