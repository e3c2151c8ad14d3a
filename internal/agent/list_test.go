package agent_test

import (
	"strings"
	"testing"
	"time"

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
	if _, err := w.attach("f00d", "forbidden", a, a); fault.CodeOf(err) != fault.RoleNotAllowed {
		t.Fatalf("attach = %v", err)
	}
	l, err := control.List(t.Context(), w.socket)
	if err != nil || len(l.Refusals) != 2 || l.Refusals[0].ID != "f00d" {
		t.Fatalf("List = %+v, %v", l, err)
	}
	if r := l.Refusals[1]; r.ID != "c0ffee" || r.Count != 3 || r.Code != fault.RoleUnknown || !strings.Contains(r.Hint, "reader") || r.Running {
		t.Errorf("refusal = %+v", r)
	}
}
