package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Numbers from include/uapi/linux/unix_diag.h.
const (
	sizeofUnixQuestion = sizeofHeader + 24 // and struct unix_diag_req
	sizeofUnixMessage  = 16                // struct unix_diag_msg
	showPeer           = 4                 // UDIAG_SHOW_PEER
	attrPeer           = 2                 // UNIX_DIAG_PEER
)

// UnixPeer opens the process that serves the other end of a connection over a Unix socket, which must have been accepted:
// an answer must have come. The credentials of the peer (SO_PEERCRED) are of whoever made the listener, which with socket
// activation is systemd; here the kernel says which socket is at the other end, and /proc who holds it. It needs to see
// every process's descriptors. The error matches ErrNoSocket if nobody holds it.
func UnixPeer(c *net.UnixConn) (*Process, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer of a Unix socket: %w", err)
	}
	var own unix.Stat_t
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = unix.Fstat(int(fd), &own) }); err != nil || inner != nil {
		return nil, fmt.Errorf("peer of a Unix socket: %w", errors.Join(err, inner))
	}
	peer, err := unixPeerOf(uint32(own.Ino)) //nolint:gosec // inodes of sockets have 32 bits (sock_diag(7))
	if err != nil {
		return nil, fmt.Errorf("peer of a Unix socket: %w", err)
	}
	return holder(fmt.Sprintf("socket:[%d]", peer))
}

// unixPeerOf asks for the inode of the socket that the one with the inode is connected to.
func unixPeerOf(inode uint32) (uint32, error) {
	fd, err := openDiag()
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	var q [sizeofUnixQuestion]byte
	n := binary.NativeEndian
	n.PutUint32(q[0:], sizeofUnixQuestion)
	n.PutUint16(q[4:], unix.SOCK_DIAG_BY_FAMILY)
	n.PutUint16(q[6:], unix.NLM_F_REQUEST)
	r := q[sizeofHeader:]
	r[0] = unix.AF_UNIX
	n.PutUint32(r[4:], ^uint32(0)) // any state
	n.PutUint32(r[8:], inode)
	n.PutUint32(r[12:], showPeer)
	n.PutUint64(r[16:], ^uint64(0)) // any cookie
	if err := retry(func() error { return unix.Send(fd, q[:], 0) }); err != nil {
		return 0, os.NewSyscallError("send", err)
	}
	b := make([]byte, os.Getpagesize())
	var size int
	if err := retry(func() (err error) { size, err = unix.Read(fd, b); return err }); err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return decodeUnixPeer(b[:size])
}

func decodeUnixPeer(b []byte) (uint32, error) {
	n := binary.NativeEndian
	if len(b) < sizeofHeader+sizeofUnixMessage || n.Uint16(b[4:]) != unix.SOCK_DIAG_BY_FAMILY {
		return 0, ErrNoSocket // an NLMSG_ERROR is shorter or of its own type
	}
	for b = b[sizeofHeader+sizeofUnixMessage:]; len(b) >= sizeofAttr; {
		size := int(n.Uint16(b))
		if size < sizeofAttr || size > len(b) {
			break
		}
		if n.Uint16(b[2:]) == attrPeer && size >= sizeofAttr+4 {
			return n.Uint32(b[sizeofAttr:]), nil
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return 0, ErrNoSocket
}

// holder opens the process that has a descriptor of that name, and looks again once the process is held: its number may
// have become another's.
func holder(name string) (*Process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if link, err := os.Readlink(file); err != nil || link != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
		if err != nil {
			continue
		}
		p, err := OpenProcess(pid)
		if err != nil {
			continue
		}
		if link, err := os.Readlink(file); err == nil && link == name && p.Alive() {
			return p, nil
		}
		_ = p.Close()
	}
	return nil, fmt.Errorf("holder of %s: %w", name, ErrNoSocket)
}
