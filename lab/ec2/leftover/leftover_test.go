package leftover_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"taskrole/internal/netns"
	"taskrole/internal/testkit"
	"taskrole/lab/ec2/leftover"
)

func find(t *testing.T, traces leftover.Traces) string {
	t.Helper()
	found, err := traces.Find()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, "\n")
}

func TestFindSeesADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	traces := leftover.Traces{Dirs: []string{dir}}
	if got := find(t, traces); got != "" {
		t.Errorf("found before there was anything: %s", got)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := find(t, traces); got != "directory "+dir {
		t.Errorf("found %q", got)
	}
}

func TestFindSeesAProcessThatNamesTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read x", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := find(t, leftover.Traces{Dirs: []string{dir}}); !strings.Contains(got, "names "+dir) {
		t.Errorf("found %q", got)
	}
	_ = stdin.Close()
	_ = cmd.Wait()
	if got := find(t, leftover.Traces{Dirs: []string{dir}}); got != "" {
		t.Errorf("found after the end: %s", got)
	}
}

func TestFindSeesANamespaceAndWaitSeesItGo(t *testing.T) {
	testkit.Need(t, testkit.NetNS)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	traces := leftover.Traces{NetNS: []uint64{ns.ID().Ino}}
	if got := find(t, traces); !strings.Contains(got, "is in or holds") {
		t.Errorf("found %q", got)
	}
	_ = ns.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if got, err := traces.Wait(ctx); err != nil || len(got) > 0 {
		t.Errorf("found after it was closed: %q, %v", got, err)
	}
}

func TestFindSeesACgroup(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.Cgroup2)
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	name := fmt.Sprintf("taskrole-lab-test-%d-x", os.Getpid())
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	traces := leftover.Traces{Cgroups: []string{strings.TrimSuffix(name, "x") + "*"}}
	got := find(t, traces)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, "cgroup "+dir) {
		t.Errorf("found %q", got)
	}
}
