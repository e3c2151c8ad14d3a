package agent

import (
	"fmt"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

func TestRefusalsRememberedAreTheLastOnes(t *testing.T) {
	var l refusals
	note := func(id string, code fault.Code) {
		l.note(control.Refusal{ID: container.ID(id), Trouble: control.Trouble{Code: code}})
	}
	note("a", fault.RoleUnknown)
	for i := range control.MaxRefusals - 1 {
		note(fmt.Sprintf("f%03d", i), fault.RoleNotAllowed)
	}
	note("a", fault.RoleUnknown)    // again: it is the last one now
	note("a", fault.RoleNotAllowed) // for another reason: an entry of its own, for which the oldest goes
	all := l.list()
	if len(all) != control.MaxRefusals || all[0].ID != "f001" {
		t.Errorf("%d refusals, the first is %+v", len(all), all[0])
	}
	last := all[len(all)-2:]
	if last[0].ID != "a" || last[0].Count != 2 || last[1].ID != "a" || last[1].Count != 1 || last[1].Code != fault.RoleNotAllowed {
		t.Errorf("the last two are %+v", last)
	}
}
