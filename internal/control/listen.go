package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

const (
	// maxPath is what fits into sockaddr_un with its final zero (unix(7)).
	maxPath    = 107
	dirMode    = 0o755
	socketMode = 0o600
	// probeTimeout bounds the question whether an existing socket is somebody's.
	probeTimeout = time.Second
)

// Listen makes the control socket at path with mode 0600, and its directory with mode 0755 where that is missing.
// The socket of an agent that has died is removed; that of a living one, and anything that is not a socket, is a
// fault. Closing the listener removes the socket.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath || !filepath.IsAbs(path) {
		return nil, fault.New(fault.ConfigInvalid, fmt.Sprintf("control socket %s cannot be used", quote(path)),
			fmt.Sprintf("name an absolute path of at most %d bytes", maxPath))
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("make directory of control socket: %w", err)
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// The file that bind(2) makes gets its mode from the socket's own, so there is no moment in which it is open
		// to others, and the umask of the process, which is everybody's, is left alone.
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, chmodErr)
	}}
	l, err := config.Listen(context.Background(), network, path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on control socket: got a %T", l), l.Close())
	}
	return ul, nil
}

// lock keeps two agents that start at once from removing each other's socket. It locks a file that nobody else may
// open, and not the directory: that one everybody may open, and with flock(2) any user of the host could then keep
// the agent from starting for as long as he likes. The file stays: whoever removed it could lock another one of that
// name.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, socketMode)
	if err != nil {
		return nil, fmt.Errorf("open lock of control socket: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock control socket: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases the lock
}

// removeStale removes the socket of a dead agent.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fault.New(fault.ConfigInvalid, fmt.Sprintf("there is something at %s that is not a socket", quote(path)),
			"move it away, or name another control socket in the configuration")
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, path)
	if errors.Is(err, syscall.ECONNREFUSED) { // nobody listens: only this means that the owner is dead
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove stale control socket: %w", err)
		}
		return nil
	}
	if err == nil {
		_ = c.Close()
	}
	return fault.Wrap(err, fault.AgentRunning, fmt.Sprintf("another taskrole agent listens on %s", path),
		`stop it first ("systemctl stop taskrole"), or name another control socket in the configuration`)
}
