package attest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBirthsAreToldInOrderAndOnlyWhereTheyAreWatched(t *testing.T) {
	w := newWorld(t)
	births, err := w.tree.Births()
	check(t, err)
	defer births.Close()
	check(t, births.Watch(w.base+"/a"))
	check(t, births.Watch(w.base+"/a")) // again
	check(t, births.Watch(w.base+"/b"))
	if err := births.Watch(w.base + "/missing"); err == nil {
		t.Error("a directory that is not there is watched")
	}
	for _, d := range []string{"c", "a/sub/d", "a/1", "b/2", "a/3"} {
		check(t, os.Mkdir(w.dir(d), 0o755))
		defer removeCgroup(t, w.dir(d))
	}
	for _, want := range []string{"/a/1", "/b/2", "/a/3"} {
		got, err := births.Next()
		check(t, err)
		if got != w.base+want {
			t.Errorf("born: %s, want %s", got, w.base+want)
		}
	}
}

// What others make proves nothing.
func TestBirthsAreNotWatchedWhereOthersMayWrite(t *testing.T) {
	w := newWorld(t)
	births, err := w.tree.Births()
	check(t, err)
	defer births.Close()
	check(t, os.Chmod(w.dir("a"), 0o775))
	check(t, os.Chown(w.dir("b"), 1000, 0))
	for _, d := range []string{"a", "b"} {
		if err := births.Watch(filepath.Join(w.base, d)); err == nil {
			t.Errorf("%s is watched", d)
		}
	}
}

func TestCloseEndsTheWaitForABirth(t *testing.T) {
	births, err := newWorld(t).tree.Births()
	check(t, err)
	ended := make(chan error)
	go func() {
		_, err := births.Next()
		ended <- err
	}()
	check(t, births.Close())
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Next = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Next waits for ever")
	}
}

func TestAloneIsTheOnlyProcess(t *testing.T) {
	w := newWorld(t)
	cgroup := filepath.Join(w.base, "a")
	alone := func(want int, when string) {
		t.Helper()
		if got := w.tree.Alone(cgroup); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}
	enter := func(pid int) { check(t, os.WriteFile(w.dir("a/cgroup.procs"), fmt.Append(nil, pid), 0o600)) }
	alone(0, "nobody")
	one, two := sleeper(t), sleeper(t)
	enter(one.Process.Pid)
	alone(one.Process.Pid, "one")
	enter(two.Process.Pid)
	alone(0, "two")
	kill(one)
	kill(two)
	if got := w.tree.Alone(w.base + "/missing"); got != 0 {
		t.Errorf("in a cgroup that is not there: %d", got)
	}
}
