package hook

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

// openProcess turns the process id in the state into descriptors. The id may be reused at any moment, so the order
// matters: first the pidfd, then the namespace by number, then the pidfd says that the process had not ended (and so
// that the number was still its own) when the namespace was opened.
func openProcess(s state) (process, error) {
	fd, err := unix.PidfdOpen(int(s.PID), 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return process{}, gone(err, s)
	case errors.Is(err, unix.ENOSYS):
		return process{}, fault.Wrap(err, fault.KernelUnsupported, "this kernel has no pidfd_open", "run Linux 5.3 or newer")
	case err != nil: // EINVAL: a thread, not a process
		return process{}, invalid(err, fmt.Sprintf("process %d of container %s cannot be opened: %v", s.PID, s.ID.Short(), err))
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	netns, err := os.Open("/proc/" + strconv.FormatInt(s.PID, 10) + "/ns/net")
	if ended, pollErr := hasEnded(fd); ended || pollErr != nil {
		if netns != nil {
			_ = netns.Close()
		}
		_ = pidfd.Close()
		return process{}, gone(errors.Join(err, pollErr), s)
	}
	if err != nil {
		_ = pidfd.Close()
		return process{}, fault.Wrap(err, fault.Internal,
			fmt.Sprintf("the network namespace of container %s cannot be opened: %s", s.ID.Short(), reason(err)),
			"the hook needs root and the host's /proc")
	}
	return process{pidfd, netns}, nil
}

// hasEnded says whether the process is a zombie or less: a pidfd becomes readable then (pidfd_open(2)). Sending it
// signal 0 would not do: zombies take that.
func hasEnded(pidfd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}

// reason is the error without the path, which the sentence has already.
func reason(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}
