package fault_test

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"testing"

	"taskrole/internal/fault"
)

func TestErrorShowsSentenceHintAndCodeButNotTheCause(t *testing.T) {
	err := fault.Wrap(io.ErrUnexpectedEOF, fault.STSDenied, "AWS refuses the role", "check the trust policy")
	if got, want := err.Error(), "AWS refuses the role: check the trust policy [sts-denied]"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if got, want := fault.New(fault.NotFound, "nothing here", "").Error(), "nothing here [not-found]"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestAs(t *testing.T) {
	f := fault.New(fault.RoleUnknown, "no role", "")
	if got := fault.As(fmt.Errorf("attach: %w", f)); got != f {
		t.Errorf("As did not find the fault in the chain: %v", got)
	}
	if got := fault.CodeOf(io.EOF); got != fault.Internal {
		t.Errorf("CodeOf(io.EOF) = %q, want %q", got, fault.Internal)
	}
	if fault.As(nil) != nil || fault.CodeOf(nil) != "" {
		t.Error("As(nil) or CodeOf(nil) invents a fault")
	}
}

func TestCodesAreKebabCaseAndHaveTraits(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	for _, c := range fault.Codes() {
		f := fault.New(c, "x", "")
		if !kebab.MatchString(string(c)) || f.Status() < 400 || f.Status() > 599 || f.Exit() < fault.ExitFault {
			t.Errorf("code %q: status %d, exit %d", c, f.Status(), f.Exit())
		}
	}
}
