package engineroot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/lab/ec2/engineroot"
)

func TestMajor(t *testing.T) {
	for version, want := range map[string]int{"20.10.24+dfsg1": 20, "28.5.2+dfsg4, build 0": 28, "29.0.0-rc.1": 29} {
		if got, err := engineroot.Major(version); err != nil || got != want {
			t.Errorf("Major(%q) = %d, %v, want %d", version, got, err, want)
		}
	}
	for _, version := range []string{"", "dev", "v1.2", strings.Repeat("x", 5000)} {
		if got, err := engineroot.Major(version); err == nil || len(err.Error()) > 100 {
			t.Errorf("Major(%.10q) = %d, %v, want a short error", version, got, err)
		}
	}
}

func TestCheckLength(t *testing.T) {
	if err := engineroot.CheckLength("/tmp/tr-lab-1234567890/d1234567890"); err != nil {
		t.Errorf("the usual directory: %v", err)
	}
	if err := engineroot.CheckLength("/tmp/" + strings.Repeat("x", 80)); err == nil {
		t.Error("a directory of 85 bytes is accepted")
	}
}

func TestFindTakesOnlyPrograms(t *testing.T) {
	root := t.TempDir()
	bin := filepath.Join(root, "usr/bin")
	if err := os.MkdirAll(filepath.Join(bin, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"program": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := engineroot.Find(root, "program"); err != nil || got != filepath.Join(bin, "program") {
		t.Errorf("Find(program) = %q, %v", got, err)
	}
	for _, name := range []string{"text", "directory", "missing"} {
		if got, err := engineroot.Find(root, name); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("Find(%s) = %q, %v, want that it is not found", name, got, err)
		}
	}
}

func TestMainRefusesWhatIsNoPlan(t *testing.T) {
	var out strings.Builder
	if status := engineroot.Main(strings.NewReader(""), &out); status != 1 || out.Len() > 0 {
		t.Errorf("without a plan: status %d, %s", status, out.String())
	}
	if status := engineroot.Main(strings.NewReader("nonsense\n"), &out); status != 1 || !strings.Contains(out.String(), "read the plan") {
		t.Errorf("with nonsense: status %d, %s", status, out.String())
	}
}
