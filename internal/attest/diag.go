package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes and numbers from include/uapi/linux/{netlink,inet_diag}.h.
const (
	sizeofHeader   = 16                // struct nlmsghdr
	sizeofQuestion = sizeofHeader + 56 // and struct inet_diag_req_v2
	sizeofMessage  = 72                // struct inet_diag_msg
	sizeofAttr     = 4                 // struct rtattr
	attrCgroup     = 21                // INET_DIAG_CGROUP_ID, sent unasked for every full socket (Linux 5.8)
	// An answer without the extensions that we do not ask for takes some 130 bytes. One that does not fit says more bytes
	// than were read, and is refused.
	maxAnswer = 512

	loopback = 1 // the interface index of lo in every namespace (LOOPBACK_IFINDEX)
)

// errOtherQuestion means that an answer is not about the last question.
var errOtherQuestion = errors.New("the answer to another question")

// question asks for one socket by its exact addresses: source is the socket's own end. It is deliberately not a
// dump, which netlink libraries send: a dump looks at the ports alone, walks the whole machine's sockets, and has
// returned another container's socket.
type question struct {
	source, destination netip.AddrPort
	device              uint32 // what the socket is bound to, 0 if nothing
}

func (q question) encode(b *[sizeofQuestion]byte, seq uint32) {
	clear(b[:])
	n := binary.NativeEndian
	n.PutUint32(b[0:], sizeofQuestion)
	n.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	n.PutUint16(b[6:], unix.NLM_F_REQUEST)
	n.PutUint32(b[8:], seq)

	r := b[sizeofHeader:]
	r[0] = unix.AF_INET
	if q.source.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	r[1] = unix.IPPROTO_TCP
	n.PutUint32(r[4:], ^uint32(0)) // all states: the kernel does not look at them here, which is why client does
	id := r[8:]
	binary.BigEndian.PutUint16(id[0:], q.source.Port())
	binary.BigEndian.PutUint16(id[2:], q.destination.Port())
	copy(id[4:20], q.source.Addr().AsSlice())
	copy(id[20:36], q.destination.Addr().AsSlice())
	n.PutUint32(id[36:], q.device)
	n.PutUint64(id[40:], ^uint64(0)) // any cookie
}

// record is an answer, as it came.
type record struct {
	source, destination netip.AddrPort
	device              uint32
	socket              Socket
	hasCgroup           bool
}

// decode reads one netlink message. ErrNoSocket is the kernel's own "no".
func decode(b []byte, seq uint32) (record, error) {
	n := binary.NativeEndian
	if len(b) < sizeofHeader {
		return record{}, fmt.Errorf("sock_diag answered %d bytes", len(b))
	}
	size, kind := uint64(n.Uint32(b[0:])), n.Uint16(b[4:])
	if size < sizeofHeader || size > uint64(len(b)) {
		return record{}, fmt.Errorf("sock_diag answered %d bytes and said %d", len(b), size)
	}
	if n.Uint32(b[8:]) != seq {
		return record{}, errOtherQuestion
	}
	body := b[sizeofHeader:size]
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		errno := unix.Errno(-n.Uint32(body)) // a negative number
		if errno == unix.ENOENT {
			return record{}, ErrNoSocket
		}
		return record{}, fmt.Errorf("sock_diag: %w", errno)
	case kind == unix.SOCK_DIAG_BY_FAMILY && len(body) >= sizeofMessage:
		return decodeMessage(body), nil
	default:
		return record{}, fmt.Errorf("sock_diag answered type %d with %d bytes", kind, len(body))
	}
}

// decodeMessage reads a struct inet_diag_msg and the attributes after it.
func decodeMessage(b []byte) record {
	n := binary.NativeEndian
	family, id := b[0], b[4:]
	r := record{
		source:      netip.AddrPortFrom(decodeAddr(family, id[4:20]), binary.BigEndian.Uint16(id[0:])),
		destination: netip.AddrPortFrom(decodeAddr(family, id[20:36]), binary.BigEndian.Uint16(id[2:])),
		device:      n.Uint32(id[36:]),
		socket:      Socket{State: State(b[1]), UID: n.Uint32(b[64:]), Inode: n.Uint32(b[68:])},
	}
	for rest := b[sizeofMessage:]; len(rest) >= sizeofAttr; {
		size, kind := int(n.Uint16(rest)), n.Uint16(rest[2:])
		if size < sizeofAttr || size > len(rest) {
			break
		}
		if kind == attrCgroup && size >= sizeofAttr+8 {
			r.socket.Cgroup, r.hasCgroup = n.Uint64(rest[sizeofAttr:]), true
		}
		aligned := (size + 3) &^ 3
		rest = rest[min(aligned, len(rest)):]
	}
	return r
}

// decodeAddr unmaps: a client with an AF_INET6 socket that speaks IPv4 is reported with mapped addresses.
func decodeAddr(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b)).Unmap()
}

// client returns the socket if it is what was asked for and somebody holds it. The kernel falls back to a listener
// on the same address where it finds no connection, and keeps an entry without owner for a closed one.
func (r record) client(q question) (Socket, error) {
	switch {
	case r.source != q.source || r.destination != q.destination:
		return Socket{}, fmt.Errorf("sock_diag answered %s to %s: %w", r.source, r.destination, ErrNoSocket)
	case !r.socket.State.readable():
		return Socket{}, fmt.Errorf("its socket is in state %d: %w", r.socket.State, ErrNoSocket)
	case r.socket.Inode == 0 || !r.hasCgroup:
		return Socket{}, fmt.Errorf("its socket has been closed: %w", ErrNoSocket)
	default:
		return r.socket, nil
	}
}
