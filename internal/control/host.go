package control

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

// ofTheHost refuses a caller in another pid namespace than the agent's. A container that was given the socket is root to
// the kernel, and must not be handed every role for it; the hook, which hands over containers, always runs beside us.
func ofTheHost(c syscall.Conn, pid int32) error {
	refusal := fault.New(fault.PermissionDenied, "credentials are handed out to the host's own processes, not to one in a container",
		"run the command on the host, and do not mount the agent's socket into containers")
	if pid == 0 { // no number in our namespace: it is in another one that is not below ours
		return refusal
	}
	alive, release, err := holdPeer(c)
	if err != nil {
		return err
	}
	defer release()
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(int(pid)) + "/ns/pid")
	if err != nil {
		return fmt.Errorf("read the caller's pid namespace: %w", err)
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("read our own pid namespace: %w", err)
	}
	if theirs != ours || !alive() {
		return refusal
	}
	return nil
}

// holdPeer makes sure that the caller's number is not reused while we look it up: alive says afterwards whether the
// process that connected is still there. Before Linux 6.5 the kernel does not say which process that was, and alive
// is always true.
func holdPeer(c syscall.Conn) (alive func() bool, release func(), err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("reach control connection: %w", err)
	}
	var pidfd int
	var optErr error
	err = raw.Control(func(fd uintptr) {
		pidfd, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("reach control connection: %w", err)
	case errors.Is(optErr, unix.ENOPROTOOPT):
		return func() bool { return true }, func() {}, nil
	case optErr != nil:
		return nil, nil, fmt.Errorf("hold the caller: %w", optErr)
	}
	return func() bool { return unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil }, func() { _ = unix.Close(pidfd) }, nil
}
