package attest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
)

// Socket is what the kernel says of a client's socket. None of it follows from what a process says, and none of it
// changes: the cgroup is the one its maker was in when it made the socket, wherever the process or the descriptor
// went afterwards.
type Socket struct {
	Cgroup uint64 // id in the version 2 hierarchy; 1 on hosts that have version 1 alone
	UID    uint32 // of the maker, as seen from our user namespace
	Inode  uint32
	State  State
}

// State is a TCP state (include/net/tcp_states.h).
type State uint8

// The states of a connection that somebody may still read from. In every other one nobody is there, or the socket is
// no client at all.
const (
	Established State = 1
	FinWait1    State = 4
	FinWait2    State = 5
	CloseWait   State = 8
)

// readable says whether a process may be there to read.
func (s State) readable() bool {
	return s == Established || s == FinWait1 || s == FinWait2 || s == CloseWait
}

// Witness answers whose socket a connection comes from, for one network namespace. It holds a socket of that
// namespace and so keeps it alive. It is safe for concurrent use.
type Witness struct {
	mu     sync.Mutex // guards what follows
	fd     int
	closed bool
	seq    uint32
}

// buffers are for one question and its answer. They are shared by all witnesses, of which there is one in each attached
// container, and few at work.
type buffers struct {
	asked  [sizeofQuestion]byte
	answer [maxAnswer]byte
}

var spare = sync.Pool{New: func() any { return new(buffers) }}

// patience is how long the kernel may take, in seconds. It answers before the question's system call returns; only
// an answer that was lost for want of memory never comes.
const patience = 1

// OpenWitness makes the witness of ns. The kernel needs tcp_diag, which some distributions have as a module.
func OpenWitness(ns *netns.NS) (*Witness, error) {
	fd, err := netns.Do(ns, openDiag)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return &Witness{fd: fd}, nil
}

// openDiag makes a netlink socket that hears nobody but the kernel. Without the connect, a process in the namespace
// that has CAP_NET_ADMIN could send it answers of its own.
func openDiag() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		return -1, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
	}
	return fd, nil
}

// Client returns the client's socket of a connection we accepted: local is our end, remote is the client's. It is an
// ErrNoSocket where no process of the namespace holds a connected socket with these addresses, which means that the
// client has gone or was never there.
func (w *Witness) Client(local, remote netip.AddrPort) (Socket, error) {
	q := question{source: unmap(remote), destination: unmap(local)}
	s, err := w.ask(q)
	if errors.Is(err, ErrNoSocket) {
		// The kernel does not find a socket that is bound to a device unless the question names it. Through lo is
		// the only way to us.
		q.device = loopback
		s, err = w.ask(q)
	}
	if err != nil {
		return Socket{}, fmt.Errorf("client %s: %w", remote, err)
	}
	return s, nil
}

func (w *Witness) ask(q question) (Socket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return Socket{}, os.ErrClosed
	}
	b := spare.Get().(*buffers)
	defer spare.Put(b)
	w.seq++
	q.encode(&b.asked, w.seq)
	if err := retry(func() error { return unix.Send(w.fd, b.asked[:], 0) }); err != nil {
		return Socket{}, fmt.Errorf("ask sock_diag: %w", err)
	}
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.Read(w.fd, b.answer[:]); return err })
		if err != nil {
			return Socket{}, fmt.Errorf("read sock_diag: %w", err)
		}
		found, err := decode(b.answer[:n], w.seq)
		if errors.Is(err, errOtherQuestion) { // one we gave up on
			continue
		}
		if err != nil {
			return Socket{}, err
		}
		return found.client(q)
	}
}

// Close lets go of the namespace.
func (w *Witness) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	w.closed = true
	return os.NewSyscallError("close", unix.Close(w.fd))
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// unmap makes plain IPv4 addresses of those that a dual-stack listener reports, because the kernel wants the family
// of the packets.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
