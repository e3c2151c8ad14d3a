package testkit

import (
	"os"
	"testing"
	"time"
)

func TestListedReadsTheList(t *testing.T) {
	for _, tt := range []struct {
		list string
		want bool
	}{
		{"", false},
		{"netns", true},
		{"root, netns", true},
		{"root,docker", false},
		{"netnss", false},
		{"all", true},
		{"root,all", true},
	} {
		if got := listed(tt.list, NetNS); got != tt.want {
			t.Errorf("listed(%q, netns) = %v, want %v", tt.list, got, tt.want)
		}
	}
}

func TestNeedSkipsWithAReasonAndFailsWhereRequired(t *testing.T) {
	const unknown Feature = "telepathy"
	t.Setenv(requireVariable, "")
	if r := ask(t, unknown); !r.skipped || r.failed {
		t.Errorf("not required: %+v, want a skip", r)
	}
	t.Setenv(requireVariable, "netns,telepathy")
	if r := ask(t, unknown); r.skipped || !r.failed {
		t.Errorf("required: %+v, want a failure", r)
	}
	t.Setenv(withoutVariable, "root")
	if r := ask(t, Root); !r.skipped || r.failed {
		t.Errorf("left out: %+v, want a skip, also for root", r)
	}
	if Has(unknown) {
		t.Error("Has(telepathy) = true")
	}
}

func TestLeaksNamesWhatWasLeftOpen(t *testing.T) {
	before := Descriptors()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if got := Leaks(before, 1<<20, 30*time.Millisecond); got == "" {
		t.Error("an open pipe is no leak")
	}
	_, _ = r.Close(), w.Close()
	if got := Leaks(before, 1<<20, time.Second); got != "" {
		t.Errorf("after closing: %s", got)
	}
	if got := Leaks(before, 0, 0); got == "" {
		t.Error("goroutines are not counted")
	}
}

// verdict is a testing.TB that notes what Need says instead of ending the test.
type verdict struct {
	testing.TB
	skipped, failed bool
}

func (v *verdict) Helper()               {}
func (v *verdict) Skipf(string, ...any)  { v.skipped = true }
func (v *verdict) Fatalf(string, ...any) { v.failed = true; panic(v) }

func ask(t *testing.T, f Feature) (v *verdict) {
	t.Helper()
	v = &verdict{TB: t}
	defer func() { _ = recover() }()
	Need(v, f)
	return v
}
