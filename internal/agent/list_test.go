package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/testkit/actor"
)

func TestListSaysWhoTookCredentialsLast(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	only := func() control.Attached {
		t.Helper()
		l, err := control.List(t.Context(), w.socket)
		if err != nil || len(l.Containers) != 1 {
			t.Fatalf("List = %+v, %v", l, err)
		}
		return l.Containers[0]
	}
	c := only()
	if left := time.Until(c.Expires); left < 50*time.Minute || c.Expires.Sub(c.Fetched) > 61*time.Minute || !c.Taken.IsZero() || c.Client != "" || c.Trouble != nil {
		t.Errorf("before anybody came: %+v", c)
	}
	if got := a.Do("get " + credentialsURL + " User-Agent: Boto3/1.34 ua/2.0"); !strings.HasPrefix(got, "200 ") {
		t.Fatal(got)
	}
	if c := only(); time.Since(c.Taken) > time.Minute || c.Client != "Boto3/1.34 ua/2.0" {
		t.Errorf("afterwards: %+v", c)
	}
}

func TestRefusalsAreRemembered(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	for range 3 {
		if _, err := w.attach("c0ffee", "raeder", a, a); fault.CodeOf(err) != fault.RoleUnknown {
			t.Fatalf("attach = %v", err)
		}
	}
	for i := range control.MaxRefusals + 5 {
		if _, err := w.attach(container.ID(fmt.Sprintf("f%03d", i)), "forbidden", a, a); err == nil {
			t.Fatal("a forbidden role was given")
		}
		if i == 0 {
			l, err := control.List(t.Context(), w.socket)
			if err != nil || len(l.Refusals) != 2 || l.Refusals[0].ID != "f000" {
				t.Fatalf("List = %+v, %v", l, err)
			}
			if r := l.Refusals[1]; r.ID != "c0ffee" || r.Count != 3 || r.Code != fault.RoleUnknown || !strings.Contains(r.Hint, "reader") || r.Running {
				t.Errorf("refusal = %+v", r)
			}
		}
	}
	l, err := control.List(t.Context(), w.socket)
	if err != nil || len(l.Refusals) != control.MaxRefusals || l.Refusals[0].ID != "f054" {
		t.Errorf("%d refusals, %v", len(l.Refusals), err)
	}
}
