package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

// maxFDs is SCM_MAX_FD (include/net/scm.h): the most descriptors the kernel lets one packet carry. With room for all
// of them the kernel never has a reason to cut the list, and we can close what we did not ask for.
const maxFDs = 253

// network is Go's name of AF_UNIX with SOCK_SEQPACKET: packets keep their borders, and end of file is seen.
const network = "unixpacket"

// write sends one packet with the descriptors, which stay the caller's.
func write(c *net.UnixConn, b []byte, files ...*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, 0, len(files))
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(b, oob, nil)
	runtime.KeepAlive(files) // their numbers are in oob until now
	if err != nil {
		return fmt.Errorf("send control packet: %w", err)
	}
	return nil
}

// errClosed says that the other side went away without a packet.
var errClosed = errors.New("connection closed without a packet")

// read receives one packet and its descriptors, which become the caller's, close-on-exec. An error comes with no
// descriptor: those that had arrived are closed.
func read(c *net.UnixConn) ([]byte, []*os.File, error) {
	buf := make([]byte, MaxPacket+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob) // sets MSG_CMSG_CLOEXEC
	if err != nil {
		return nil, nil, fmt.Errorf("receive control packet: %w", err)
	}
	files, err := received(oob[:oobn])
	switch {
	case err != nil:
	case n == 0 && oobn == 0:
		err = errClosed
	case flags&unix.MSG_CTRUNC != 0:
		err = invalid(nil, "a control packet whose descriptors did not all arrive")
	case flags&unix.MSG_TRUNC != 0 || n > MaxPacket:
		err = invalid(nil, fmt.Sprintf("a control packet of more than %d bytes", MaxPacket))
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return buf[:n], files, nil
}

// received takes over every descriptor in the control messages, also when it returns an error.
func received(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, invalid(err, "a control packet with unreadable control messages")
	}
	var files []*os.File
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			err = invalid(nil, "a control packet with a control message that is not about descriptors")
			continue
		}
		fds, parseErr := unix.ParseUnixRights(&m)
		if parseErr != nil {
			err = invalid(parseErr, "a control packet with unreadable descriptors")
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // somebody else's descriptor, refused: how it closes does not concern us
	}
}

// peer says who is at the other end, as the kernel noted when they connected (unix(7), SO_PEERCRED).
func peer(c syscall.Conn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach control connection: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return cred, nil
}

// onlyRoot is who may talk to the agent: whoever may start containers with a role decides who gets it.
func onlyRoot(uid uint32) error {
	if uid == 0 {
		return nil
	}
	return fault.New(fault.PermissionDenied, fmt.Sprintf("user %d may not talk to the taskrole agent", uid),
		"only root may; run the command as root")
}
