package ec2

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// errEnded is returned once the place where something was to run is closed.
var errEnded = errors.New("it is closed already")

// thread is one locked operating system thread that has entered some namespaces and runs what it is handed, one
// after the other. Processes started on it are in those namespaces, and PR_SET_PDEATHSIG counts the life of the
// thread that forked, not that of the program: so one thread lives as long as the place does, instead of one a call.
type thread struct {
	jobs  chan func()
	ended chan struct{} // closed by end
	gone  chan struct{} // closed by the thread
}

// newThread starts the thread; enter runs on it first. The thread is never unlocked, so that the runtime ends it
// with its goroutine and never gives it to other work.
func newThread(enter func() error) (*thread, error) {
	t := &thread{jobs: make(chan func()), ended: make(chan struct{}), gone: make(chan struct{})}
	entered := make(chan error, 1)
	go t.run(enter, entered)
	return t, <-entered
}

func (t *thread) run(enter func() error, entered chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread never dies, and its end is what we need. While it is locked here, a second goroutine
		// cannot get it.
		go t.run(enter, entered)
		<-t.gone
		runtime.UnlockOSThread()
		return
	}
	defer close(t.gone)
	err := enter()
	entered <- err
	for err == nil {
		select {
		case job := <-t.jobs:
			job()
		case <-t.ended:
			return
		}
	}
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case t.jobs <- func() { result <- f() }:
		return <-result
	case <-t.gone:
		return errEnded
	}
}

// end ends the thread, and with it every process that it started with a death signal. It must be called once.
func (t *thread) end() {
	close(t.ended)
	<-t.gone
}
