package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

func TestListBringsTheLastRefusals(t *testing.T) {
	want := control.ListReply{
		Containers: []control.Attached{{ID: "abc", Role: "r", Expires: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), Client: "Boto3"}},
		Refusals: []control.Refusal{{
			Time: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), Count: 2, ID: "def", Role: "admin", Way: container.WayCDI,
			Trouble: *control.NewTrouble(fault.New(fault.RoleUnknown, "no such role", "did you mean r?")),
		}},
	}
	path, _ := newSocket(t, handler{list: func(context.Context) (control.ListReply, error) { return want, nil }})
	got, err := control.List(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// However many there are and whatever is in them: as many of the last ones as a packet holds.
func TestRefusalsAreBounded(t *testing.T) {
	for _, text := range []string{"x", strings.Repeat("x", 9000), strings.Repeat("\x01", 9000)} {
		var all []control.Refusal
		for i := range 300 {
			all = append(all, control.Refusal{
				ID: container.ID(fmt.Sprintf("id-%03d", i)), Role: "r", Trouble: *control.NewTrouble(fault.New(fault.Internal, text, text)),
			})
		}
		path, _ := newSocket(t, handler{list: func(context.Context) (control.ListReply, error) { return control.ListReply{Refusals: all}, nil }})
		got, err := control.List(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got.Refusals); n > control.MaxRefusals || n < 10 || got.Refusals[0].ID != "id-000" {
			t.Errorf("%d refusals arrive", n)
		}
	}
}
