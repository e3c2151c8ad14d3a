// Package readiness calls a function when a descriptor becomes readable: a pidfd whose process ended, a listener that
// has a connection.
//
// Go's own way is a goroutine for each descriptor, which for a container at rest would cost more memory than all the
// rest that is kept of it. Here one goroutine serves any number. The package refuses to read or accept anything; it is
// apart because nothing else may call epoll.
package readiness

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Set is what is watched. It is safe for concurrent use.
type Set struct {
	file *os.File // an epoll set, itself in the runtime's poller, so that no thread sleeps in it
	conn syscall.RawConn
	done chan struct{}

	mu      sync.Mutex // guards what follows
	last    uint64
	watches map[uint64]*Watch
}

// Watch is one descriptor of a set.
type Watch struct {
	set    *Set
	conn   syscall.RawConn
	ticket uint64
	ready  func()
}

// NewSet makes a set without descriptors; Close ends it.
func NewSet() (*Set, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile stays away from the poller
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	s := &Set{file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), watches: map[uint64]*Watch{}}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	go s.run()
	return s, nil
}

// Watch has ready called once when c is readable, at once if it is already; Again asks for one more call. ready runs on
// the set's goroutine and must not wait for anything. Remove ends the watch, and must come before c is closed: a copy of
// the descriptor in another process would keep it in the set.
func (s *Set) Watch(c syscall.Conn, ready func()) (*Watch, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("watch descriptor: %w", err)
	}
	s.mu.Lock()
	s.last++
	w := &Watch{set: s, conn: conn, ticket: s.last, ready: ready}
	s.watches[w.ticket] = w
	s.mu.Unlock()
	if err := w.control(unix.EPOLL_CTL_ADD); err != nil {
		w.forget()
		return nil, fmt.Errorf("watch descriptor: %w", err)
	}
	return w, nil
}

// Again has ready called once more.
func (w *Watch) Again() error {
	if err := w.control(unix.EPOLL_CTL_MOD); err != nil {
		return fmt.Errorf("watch descriptor again: %w", err)
	}
	return nil
}

// Remove ends the watch; a call of ready that has not begun never will. It may be called of a nil Watch, and again.
func (w *Watch) Remove() {
	if w == nil {
		return
	}
	w.forget()
	_ = w.control(unix.EPOLL_CTL_DEL) // one of the two may be closed: then it is not in the set
}

func (w *Watch) forget() {
	w.set.mu.Lock()
	defer w.set.mu.Unlock()
	delete(w.set.watches, w.ticket)
}

// control tells the kernel. The event carries the ticket and not the descriptor, whose number comes round again while an
// event is on its way.
func (w *Watch) control(op int) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLONESHOT,
		Fd:     int32(uint32(w.ticket)), Pad: int32(uint32(w.ticket >> 32)), //nolint:gosec // the two halves of it
	}
	var closed, refused error
	err := w.set.conn.Control(func(set uintptr) {
		closed = w.conn.Control(func(fd uintptr) {
			refused = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(set), op, int(fd), &event))
		})
	})
	return errors.Join(err, closed, refused)
}

// run ends when the set is closed.
func (s *Set) run() {
	defer close(s.done)
	var events [64]unix.EpollEvent
	_ = s.conn.Read(func(set uintptr) bool {
		for {
			n, err := unix.EpollWait(int(set), events[:], 0)
			for _, e := range events[:max(n, 0)] {
				s.call(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32) //nolint:gosec // the two halves of a ticket
			}
			if n < len(events) && !errors.Is(err, unix.EINTR) {
				return false // wait for more
			}
		}
	})
}

func (s *Set) call(ticket uint64) {
	s.mu.Lock()
	w := s.watches[ticket]
	s.mu.Unlock()
	if w != nil {
		w.ready()
	}
}

// Close ends every watch, and waits for a call of ready that is under way.
func (s *Set) Close() error {
	err := s.file.Close()
	<-s.done
	return err
}

// Now says whether c is readable at this moment.
func Now(c syscall.Conn) bool {
	conn, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ready := false
	err = conn.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		n, _ := unix.Poll(fds, 0)                                  // interrupted: not now
		ready = n > 0
	})
	return err == nil && ready
}
