package attest_test

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/attest"
)

func TestCgroup2Mounts(t *testing.T) {
	const v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"version 2", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", []string{"/sys/fs/cgroup"}},
		{"hybrid", v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n", []string{"/sys/fs/cgroup/unified"}},
		{"version 1 alone", v1, nil},
		{"a container's part of it", "30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", nil},
		{"optional fields", "30 23 0:26 / /cg rw shared:4 master:1 propagate_from:2 - cgroup2 none rw\n", []string{"/cg"}},
		{"escaped", `30 23 0:26 / /mnt/a\040b\134040 rw - cgroup2 none rw` + "\n", []string{`/mnt/a b\040`}},
		{"name is no type", "30 23 0:26 / /x rw - tmpfs cgroup2 rw\n", nil},
		{"cut short", "30 23 0:26 / /x rw -\n30 23\n\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, attest.Cgroup2Mounts(tt.text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCgroup2Path(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		ok         bool
	}{
		{"0::/system.slice/docker-1.scope\n", "/system.slice/docker-1.scope", true},
		{"12:pids:/docker/1\n1:name=systemd:/docker/1\n0::/docker/1\n", "/docker/1", true},
		{"12:pids:/docker/1\n0::/\n", "/", true},
		{"0::/../a\n", "/a", true},
		{"12:pids:/docker/1\n", "", false},
		{"10::/a\n", "", false},
		{"", "", false},
	} {
		if got, ok := attest.Cgroup2Path(tt.text); got != tt.want || ok != tt.ok {
			t.Errorf("Cgroup2Path(%q) = %q, %v, want %q, %v", tt.text, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzCgroupTexts(f *testing.F) {
	f.Add("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	f.Add("0::/../..\n")
	f.Add(`1 2 3 / /\0401 x - cgroup2`)
	f.Fuzz(func(t *testing.T, text string) {
		if dir, ok := attest.Cgroup2Path(text); ok && (dir == "" || dir[0] != '/' || path.Clean(dir) != dir) {
			t.Errorf("Cgroup2Path(%q) = %q, which is not clean", text, dir)
		}
		if n := len(attest.Cgroup2Mounts(text)); n > strings.Count(text, "cgroup2") {
			t.Errorf("Cgroup2Mounts(%q) found %d", text, n)
		}
	})
}

func TestTreeOfFindsTheProcess(t *testing.T) {
	w := newWorld(t)
	c := w.start("a/sub", "say=ready wait")
	c.until("ready")
	p := open(t, c.cmd.Process.Pid)
	want := w.cgroup("a/sub")
	if got, ok, err := w.tree.Of(p); got != want || !ok || err != nil {
		t.Errorf("Of = %v, %v, %v, want %v", got, ok, err, want)
	}
	if got, err := attest.OfProc(w.tree, p); got != want || err != nil {
		t.Errorf("by /proc: %v, %v, want %v", got, err, want)
	}
	if got, ok, err := new(attest.Tree).Of(p); got != (attest.Cgroup{}) || ok || err != nil {
		t.Errorf("on a host with version 1 alone: %v, %v, %v", got, ok, err)
	}
	end := ended(t, p)
	check(t, c.cmd.Process.Kill())
	wait(t, end)
	if got, ok, err := w.tree.Of(p); ok || !errors.Is(err, attest.ErrGone) {
		t.Errorf("Of a process that has ended = %v, %v, %v, want ErrGone", got, ok, err)
	}
}

func TestTreeWithin(t *testing.T) {
	w := newWorld(t)
	a, sub, b := w.cgroup("a"), w.cgroup("a/sub"), w.cgroup("b")
	check(t, os.Mkdir(w.dir("ab"), 0o755))
	defer removeCgroup(t, w.dir("ab"))
	root := attest.Cgroup{ID: 1, Path: "/"}
	for _, tt := range []struct {
		name     string
		id       uint64
		ancestor attest.Cgroup
		want     bool
	}{
		{"itself", a.ID, a, true},
		{"below", sub.ID, a, true},
		{"above", a.ID, sub, false},
		{"beside", b.ID, a, false},
		{"same beginning of the name", w.cgroup("ab").ID, a, false},
		{"below the root", sub.ID, root, true},
		{"the root", 1, a, false},
		{"no cgroup", 0, a, false},
		{"no ancestor", a.ID, attest.Cgroup{}, false},
		{"another's place", sub.ID, attest.Cgroup{ID: b.ID, Path: a.Path}, false},
	} {
		if got, err := w.tree.Within(tt.id, tt.ancestor); got != tt.want || err != nil {
			t.Errorf("%s: Within(%d, %v) = %v, %v, want %v", tt.name, tt.id, tt.ancestor, got, err, tt.want)
		}
	}
}

func TestTreeDoesNotTakeANewCgroupForARemovedOne(t *testing.T) {
	w := newWorld(t)
	a, sub := w.cgroup("a"), w.cgroup("a/sub")
	removeCgroup(t, w.dir("a/sub"))
	if got, err := w.tree.Path(sub.ID); !errors.Is(err, attest.ErrGone) {
		t.Errorf("Path of a removed cgroup = %q, %v, want ErrGone", got, err)
	}
	if ok, err := w.tree.Within(sub.ID, a); ok || !errors.Is(err, attest.ErrGone) {
		t.Errorf("Within of a removed cgroup = %v, %v, want ErrGone", ok, err)
	}
	removeCgroup(t, w.dir("a"))
	check(t, os.MkdirAll(w.dir("a/sub"), 0o755))
	if again := w.cgroup("a"); again.ID == a.ID {
		t.Fatal("the kernel used an id again: this package relies on that it does not")
	}
	if ok, err := w.tree.Within(w.cgroup("a/sub").ID, a); ok || err != nil {
		t.Errorf("below a new cgroup of the same name: Within = %v, %v, want false", ok, err)
	}
}

func TestTreeEnclosing(t *testing.T) {
	w := newWorld(t)
	a, sub := w.cgroup("a"), w.cgroup("a/sub")
	if got, ok, err := w.tree.Enclosing(sub, "a"); got != a || !ok || err != nil {
		t.Errorf("Enclosing(%v, a) = %v, %v, %v, want %v", sub, got, ok, err, a)
	}
	if got, ok, err := w.tree.Enclosing(sub, "sub"); got != sub || !ok || err != nil {
		t.Errorf("Enclosing(%v, sub) = %v, %v, %v, want itself", sub, got, ok, err)
	}
	for _, name := range []string{"docker-4f1.scope", "libpod-4f1", "4f1"} { // systemd's driver, Podman's, Docker's
		dir := w.dir("a/" + name)
		check(t, os.MkdirAll(filepath.Join(dir, "init.scope"), 0o755))
		t.Cleanup(func() { removeCgroup(t, filepath.Join(dir, "init.scope")); removeCgroup(t, dir) })
		want := w.cgroup("a/" + name)
		if got, ok, err := w.tree.Enclosing(w.cgroup("a/"+name+"/init.scope"), "4f1"); got != want || !ok || err != nil {
			t.Errorf("Enclosing in %s = %v, %v, %v, want %v", name, got, ok, err, want)
		}
	}
	for _, id := range []string{"", "nowhere", "a/sub", "u", "sub.scope"} { // not one that is only part of a name
		if got, ok, err := w.tree.Enclosing(sub, id); ok || err != nil {
			t.Errorf("Enclosing(%v, %q) = %v, %v, %v, want none", sub, id, got, ok, err)
		}
	}
}

func TestNearestIsTheLowest(t *testing.T) {
	w := newWorld(t)
	a, sub, b := w.cgroup("a"), w.cgroup("a/sub"), w.cgroup("b")
	check(t, os.Mkdir(w.dir("a/sub/leaf"), 0o755))
	t.Cleanup(func() { removeCgroup(t, w.dir("a/sub/leaf")) })
	leaf := w.cgroup("a/sub/leaf")
	for _, c := range []struct {
		id    uint64
		among []attest.Cgroup
		want  int
	}{
		{sub.ID, []attest.Cgroup{a, sub, b}, 1},
		{leaf.ID, []attest.Cgroup{a, sub, b}, 1},
		{leaf.ID, []attest.Cgroup{sub, a}, 0},
		{leaf.ID, []attest.Cgroup{b, a}, 1},
		{leaf.ID, []attest.Cgroup{b}, -1},
		{leaf.ID, nil, -1},
		{leaf.ID, []attest.Cgroup{{ID: 1 << 60, Path: "/nowhere"}, a}, 1}, // one that is gone
	} {
		if got, err := w.tree.Nearest(c.id, c.among); got != c.want || err != nil {
			t.Errorf("Nearest(%d, %v) = %d, %v, want %d", c.id, c.among, got, err, c.want)
		}
	}
	if got, err := w.tree.Nearest(1<<60, []attest.Cgroup{a}); err == nil {
		t.Errorf("Nearest of a cgroup that is not there = %d, want an error", got)
	}
}
