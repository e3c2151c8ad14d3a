package attach_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/attach"
	"taskrole/internal/fault"
	"taskrole/internal/testkit/actor"
)

func TestAnotherContainerInTheNamespaceGetsNoRole(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	a, b := actor.Start(t, ns, ""), actor.Start(t, ns, "")
	w.mustAttach(a, "c1", "reader")
	for _, role := range []string{"writer", "reader"} {
		if _, _, err := w.attach(b, "c2", role); fault.CodeOf(err) != fault.NamespaceShared {
			t.Errorf("Attach of a second container with the role %s = %v", role, err)
		}
	}
	if got := a.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("the first container suffers: GET = %s", got)
	}
}

func TestProcessOutsideTheContainerIsToldSo(t *testing.T) {
	ns := actor.NewNS(t)
	own, other := actor.NewCgroup(t), actor.NewCgroup(t)
	nested := filepath.Join(own, "nested")
	if err := os.Mkdir(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { actor.RemoveCgroup(t, nested) })
	w := newWorld(t, 0)
	c := actor.Start(t, ns, own)
	w.mustAttach(c, "c1", "reader")
	if got := c.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("the container itself: GET = %s", got)
	}
	if got := actor.Start(t, ns, nested).Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("a process in a cgroup below the container's: GET = %s", got)
	}
	for name, cgroup := range map[string]string{"another cgroup": other, "the host": ""} {
		if got := actor.Start(t, ns, cgroup).Do("get " + ecsURL); !strings.HasPrefix(got, "404 "+string(fault.NotThisContainer)) {
			t.Errorf("a process of %s that entered the namespace: GET = %s", name, got)
		}
	}
}

func TestTwoRolesForOneContainerAreRefused(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	w.mustAttach(c, "c1", "reader")
	if _, _, err := w.attach(c, "c1", "admin"); fault.CodeOf(err) != fault.NamespaceShared {
		t.Errorf("Attach with a second role = %v", err)
	}
	if got := c.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("GET = %s", got)
	}
}

func TestDeadProcessIsRefused(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	c := actor.Start(t, ns, "")
	target := target(t, c, "c1", "reader")
	c.End()
	_, _, err := w.attacher.Attach(t.Context(), target, func(context.Context) (attach.Service, error) { return w.service("c1", "reader"), nil })
	if got := fault.CodeOf(err); got != fault.ContainerGone {
		t.Errorf("Attach of a dead process = %v", err)
	}
	if list, left := w.attacher.List(), addresses(t, ns); len(list) != 0 || len(left) != 0 {
		t.Errorf("left behind: %v, addresses %v", list, left)
	}
}
