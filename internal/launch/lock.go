package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"taskrole/internal/fault"
)

// lock is how a companion knows who needs it: each taskrole run holds it together with the others, and so does the
// docker run that it becomes, until that ends. The companion gets it for itself when all have ended.
type lock struct {
	path string
	file *os.File
}

// lockPause is the wait between two attempts to get the lock.
const lockPause = 20 * time.Millisecond

func lockPath(socket string) string { return filepath.Join(filepath.Dir(socket), "run.lock") }

// openLock opens the lock beside the control socket, and makes it where it is missing.
func openLock(socket string) (*lock, error) {
	l := &lock{path: lockPath(socket)}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil { //nolint:gosec // what is in it has modes of its own
		return nil, fault.As(fmt.Errorf("make the directory of the control socket: %w", err))
	}
	return l, l.open()
}

func (l *lock) open() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fault.As(fmt.Errorf("open the lock of taskrole run: %w", err))
	}
	l.file = f
	return nil
}

// take tries to get the lock: syscall.LOCK_SH together with others, syscall.LOCK_EX alone.
func (l *lock) take(how int) (bool, error) {
	err := syscall.Flock(int(l.file.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, fault.As(fmt.Errorf("lock %s: %w", l.path, err))
	}
	// The one who had it may have removed the file, and then this is nobody's lock.
	now, err1 := os.Lstat(l.path)
	own, err2 := l.file.Stat()
	if err1 == nil && err2 == nil && os.SameFile(now, own) {
		return true, nil
	}
	l.close()
	return false, l.open()
}

// share waits for the lock.
func (l *lock) share(ctx context.Context) error {
	for {
		if ok, err := l.take(syscall.LOCK_SH); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(ctx.Err(), fault.AgentUnreachable, "the agent of another taskrole run does not end", "look for processes of taskrole companion")
		case <-time.After(lockPause):
		}
	}
}

func (l *lock) release() { _ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN) }

// inherit lets the program that this one becomes hold the lock.
func (l *lock) inherit() error {
	if _, err := syscall.Dup(int(l.file.Fd())); err != nil { // without close-on-exec
		return fault.As(fmt.Errorf("hand on the lock of taskrole run: %w", err))
	}
	return nil
}

// remove takes the file away, and its directory if that is empty.
func (l *lock) remove() { remove([]string{l.path, filepath.Dir(l.path)}) }

func (l *lock) close() { _ = l.file.Close() }
