// Package netns runs code inside another network namespace and makes what stays there: addresses on lo and listeners.
//
// A socket belongs for ever to the namespace its thread was in when it was made. So the agent visits a container's
// namespace once, on a thread it then throws away, and serves from outside. The package refuses descriptors that are
// not network namespaces, since they arrive over a socket, and it never lets a thread that has been elsewhere run
// other code. It is separate because nothing else may call setns: the rule about threads is kept in one function.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Errors a caller may match.
var (
	// ErrNotNetNS means that a descriptor is something else than a network namespace.
	ErrNotNetNS = errors.New("not a network namespace")
	// ErrExited means that the function given to Do left its goroutine (runtime.Goexit) instead of returning.
	ErrExited = errors.New("the function left its thread without an answer")
)

// self is the namespace of the calling thread. /proc/self would be that of the process's main thread.
const self = "/proc/thread-self/ns/net"

// NS is an open network namespace. It keeps the namespace alive until it is closed.
type NS struct {
	file *os.File
	id   ID
}

// ID tells network namespaces apart. It is meaningful only while both namespaces are open: the kernel hands the
// number of a namespace that has gone to a later one.
type ID struct{ Dev, Ino uint64 }

// Open opens the network namespace at path, such as /proc/PID/ns/net.
func Open(path string) (*NS, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return FromFile(f)
}

// FromFile takes ownership of f, which must be an open network namespace; else f is closed and the error matches
// ErrNotNetNS.
func FromFile(f *os.File) (*NS, error) {
	n := &NS{file: f}
	if err := n.verify(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return n, nil
}

// verify asks for the file system first: an ioctl number means something else to every kind of file, and f may come
// from a stranger.
func (n *NS) verify() error {
	fd := n.FD()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fmt.Errorf("look at network namespace: %w", os.NewSyscallError("fstatfs", err))
	}
	if fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("file system %#x: %w", fs.Type, ErrNotNetNS)
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE) // Linux 4.11
	if err != nil {
		return fmt.Errorf("look at network namespace: %w", os.NewSyscallError("NS_GET_NSTYPE", err))
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("namespace of type %#x: %w", kind, ErrNotNetNS)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at network namespace: %w", os.NewSyscallError("fstat", err))
	}
	n.id = ID{st.Dev, st.Ino}
	return nil
}

// Current opens the process's own network namespace.
func Current() (*NS, error) { return Open(self) }

// New makes a network namespace with lo up. It lives until the last descriptor, socket or process of it is gone.
func New() (*NS, error) {
	return onThread(func() (*NS, error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return nil, fmt.Errorf("make network namespace: %w", os.NewSyscallError("unshare", err))
		}
		if err := raiseLoopback(); err != nil {
			return nil, err
		}
		return Open(self)
	})
}

// ID returns what tells this namespace from the others that are open now.
func (n *NS) ID() ID { return n.id }

// Same says whether both are the same namespace.
func (n *NS) Same(o *NS) (bool, error) {
	if o == nil {
		return false, errors.New("compare network namespaces: there is no second one")
	}
	return n.id == o.id, nil
}

// FD returns the descriptor, which stays the namespace's.
func (n *NS) FD() int { return int(n.file.Fd()) }

// File returns the open file, which stays the namespace's.
func (n *NS) File() *os.File { return n.file }

// Close lets go of the namespace.
func (n *NS) Close() error { return n.file.Close() }

// Do runs f on a thread of its own inside n and returns what f returns.
//
// The thread is never unlocked, so it dies with the goroutine: no other code can ever run on a thread that is in the
// wrong namespace. f must not start goroutines that use the network, and must not resolve names: both would run on
// other threads, outside n. What f opens stays in n and may be used from anywhere. f must return; a test's Fatal
// inside it gives ErrExited.
func Do[T any](n *NS, f func() (T, error)) (T, error) {
	return onThread(func() (T, error) {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			var none T
			return none, fmt.Errorf("enter network namespace: %w", os.NewSyscallError("setns", err))
		}
		return f()
	})
}

// onThread runs f on a thread that ends afterwards.
func onThread[T any](f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: ErrExited}
		defer func() { done <- r }()
		runtime.LockOSThread() // never unlocked, unless it is the main thread
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the main thread. It would keep the namespace for ever, and /proc/self/net
			// would show it as ours. While this goroutine holds it, another one gets another thread.
			r.value, r.err = onThread(f)
			runtime.UnlockOSThread()
			return
		}
		r.value, r.err = f()
	}()
	r := <-done
	return r.value, r.err
}

// do is Do for functions that have nothing but an error to return.
func (n *NS) do(f func() error) error {
	_, err := Do(n, func() (struct{}, error) { return struct{}{}, f() })
	return err
}
