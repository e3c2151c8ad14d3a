package attest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher notices the end of processes, any number of them, on one goroutine: a goroutine for each would cost more
// memory than all the rest that is kept of a process. It is safe for concurrent use.
type Watcher struct {
	file *os.File // an epoll set, itself in the runtime's poller, so that no thread sleeps in it
	conn syscall.RawConn
	done chan struct{}

	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[uint64]func()
}

// NewWatcher starts a watcher; Close stops it.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch processes: %w", os.NewSyscallError("epoll_create1", err))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile stays away from the poller
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	w := &Watcher{file: os.NewFile(uintptr(fd), "processes"), done: make(chan struct{}), waiting: map[uint64]func(){}}
	if w.conn, err = w.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch processes: %w", err), w.file.Close())
	}
	go w.run()
	return w, nil
}

// Watch has ended called once when p has ended, at once if it has already. ended runs on the watcher's goroutine and
// must not wait for anything. What it returns is for Forget.
func (w *Watcher) Watch(p *Process, ended func()) (uint64, error) {
	w.mu.Lock()
	w.last++
	ticket := w.last
	w.waiting[ticket] = ended
	w.mu.Unlock()
	// The ticket and not the descriptor: numbers of descriptors come round again while an event is on its way.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(uint32(ticket)), Pad: int32(uint32(ticket >> 32))} //nolint:gosec // the two halves of it
	if err := w.control(p, unix.EPOLL_CTL_ADD, &event); err != nil {
		w.mu.Lock()
		delete(w.waiting, ticket)
		w.mu.Unlock()
		return 0, fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	return ticket, nil
}

// Forget ends the watch for p; if ended has not begun to run it never will. It comes before p is closed: a copy of
// the descriptor elsewhere would keep it in the set.
func (w *Watcher) Forget(p *Process, ticket uint64) {
	w.mu.Lock()
	delete(w.waiting, ticket)
	w.mu.Unlock()
	_ = w.control(p, unix.EPOLL_CTL_DEL, nil) // the watcher is closed, or p is: then it is not in the set
}

func (w *Watcher) control(p *Process, op int, event *unix.EpollEvent) error {
	var closed, refused error
	err := w.conn.Control(func(set uintptr) {
		closed = p.conn.Control(func(fd uintptr) {
			refused = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(set), op, int(fd), event))
		})
	})
	return errors.Join(err, closed, refused)
}

// run ends when the set is closed.
func (w *Watcher) run() {
	defer close(w.done)
	var events [64]unix.EpollEvent
	_ = w.conn.Read(func(set uintptr) bool {
		for {
			n, err := unix.EpollWait(int(set), events[:], 0)
			for _, e := range events[:max(n, 0)] {
				w.fire(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32) //nolint:gosec // the two halves of a ticket
			}
			if n < len(events) && !errors.Is(err, unix.EINTR) {
				return false // wait for more
			}
		}
	})
}

func (w *Watcher) fire(ticket uint64) {
	w.mu.Lock()
	ended := w.waiting[ticket]
	delete(w.waiting, ticket)
	w.mu.Unlock()
	if ended != nil {
		ended()
	}
}

// Close stops watching, and waits for a call of ended that is under way.
func (w *Watcher) Close() error {
	err := w.file.Close()
	<-w.done
	return err
}
