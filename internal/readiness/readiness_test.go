package readiness_test

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"taskrole/internal/readiness"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func newSet(t *testing.T) *readiness.Set {
	t.Helper()
	s, err := readiness.NewSet()
	check(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func write(t *testing.T, w *os.File) {
	t.Helper()
	_, err := w.Write([]byte("x"))
	check(t, err)
}

func wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("never called")
	}
}

func TestEachIsCalledOnceUntilItAsksAgain(t *testing.T) {
	const many = 200 // more than the kernel reports at once
	s := newSet(t)
	var calls [many]atomic.Int32
	called := make(chan struct{}, 2*many)
	var watches []*readiness.Watch
	for i := range many {
		r, w := pipe(t)
		watch, err := s.Watch(r, func() { calls[i].Add(1); called <- struct{}{} })
		check(t, err)
		watches = append(watches, watch)
		write(t, w)
	}
	for range many {
		wait(t, called)
	}
	check(t, watches[0].Again()) // it is readable still
	wait(t, called)
	for i := range calls {
		want := int32(1)
		if i == 0 {
			want = 2
		}
		if n := calls[i].Load(); n != want {
			t.Errorf("descriptor %d: called %d times, want %d", i, n, want)
		}
	}
}

func TestWhatIsReadableAlreadyIsReported(t *testing.T) {
	r, w := pipe(t)
	write(t, w)
	called := make(chan struct{}, 1)
	_, err := newSet(t).Watch(r, func() { called <- struct{}{} })
	check(t, err)
	wait(t, called)
}

func TestARemovedOneIsNotCalled(t *testing.T) {
	s := newSet(t)
	r, w := pipe(t)
	watch, err := s.Watch(r, func() { t.Error("called after it was removed") })
	check(t, err)
	watch.Remove()
	watch.Remove()
	(*readiness.Watch)(nil).Remove()
	write(t, w)
	if err := watch.Again(); err == nil {
		t.Error("a removed watch can be had again")
	}
	other, otherEnd := pipe(t) // when this is reported the first one has not been
	called := make(chan struct{}, 1)
	_, err = s.Watch(other, func() { called <- struct{}{} })
	check(t, err)
	write(t, otherEnd)
	wait(t, called)
}

func TestAClosedSetWatchesNothing(t *testing.T) {
	s := newSet(t)
	r, w := pipe(t)
	watch, err := s.Watch(r, func() { t.Error("called by a closed set") })
	check(t, err)
	check(t, s.Close())
	write(t, w)
	if _, err := s.Watch(r, func() {}); err == nil {
		t.Error("a closed set takes descriptors")
	}
	if err := watch.Again(); err == nil {
		t.Error("a closed set watches again")
	}
}

func TestAClosedDescriptorIsRefused(t *testing.T) {
	r, _ := pipe(t)
	check(t, r.Close())
	if _, err := newSet(t).Watch(r, func() {}); err == nil {
		t.Error("a closed descriptor is watched")
	}
}

func TestNow(t *testing.T) {
	r, w := pipe(t)
	if readiness.Now(r) {
		t.Error("an empty pipe is readable")
	}
	write(t, w)
	if !readiness.Now(r) {
		t.Error("a pipe with a byte in it is not readable")
	}
	check(t, r.Close())
	if readiness.Now(r) {
		t.Error("a closed pipe is readable")
	}
}
