package attach_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"taskrole/internal/attach"
	"taskrole/internal/container"
	"taskrole/internal/fault"
	"taskrole/internal/testkit/actor"
)

func TestContainersThatNoCgroupTellsApartGetOneRole(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	a, b := actor.Start(t, ns, ""), actor.Start(t, ns, "")
	w.mustAttach(a, "c1", "reader", confined)
	for _, role := range []string{"writer", "reader"} {
		if _, _, err := w.attach(b, "c2", role, confined); fault.CodeOf(err) != fault.NamespaceShared {
			t.Errorf("Attach of a second container with the role %s = %v", role, err)
		}
	}
	if got := a.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("the first container suffers: GET = %s", got)
	}
}

func TestOfManyAtOnceInOneNamespaceExactlyOneGetsItsRole(t *testing.T) {
	ns := actor.NewNS(t)
	w := newWorld(t, 0)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 8 {
		id, role := container.ID(fmt.Sprintf("c%d", i%4)), fmt.Sprintf("role-%d", i) // each id twice, with two roles
		target := target(t, actor.Start(t, ns, ""), id, role)
		wg.Go(func() {
			_, already, err := w.attacher.Attach(t.Context(), target, func(context.Context) (attach.Service, error) { return w.service(id, role), nil })
			if err == nil && !already {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	list := w.attacher.List()
	if won.Load() != 1 || len(list) != 1 || w.released.Load() != w.prepared.Load()-1 {
		t.Errorf("%d got a role, %d were prepared, %d released, the list has %d", won.Load(), w.prepared.Load(), w.released.Load(), len(list))
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

// Another container in the namespace gets an answer and no more: it must not take the places of the one with the role.
func TestStrangersDoNotTakeAllPlaces(t *testing.T) {
	ns := actor.NewNS(t)
	own, other := actor.NewCgroup(t), actor.NewCgroup(t)
	const places = 8
	w := newWorld(t, places)
	c, stranger := actor.Start(t, ns, own), actor.Start(t, ns, other)
	w.mustAttach(c, "c1", "reader")
	for range 4 * places {
		stranger.Do("hold 169.254.170.2:80") // a reset is one of the right answers
	}
	if got := c.Do("get " + ecsURL); got != "200 reader" {
		t.Errorf("the container itself: GET = %s", got)
	}
	stranger.End()
	eventually(t, "a stranger is told again", func() bool {
		return strings.HasPrefix(actor.Start(t, ns, other).Do("get "+ecsURL), "404")
	})
}
