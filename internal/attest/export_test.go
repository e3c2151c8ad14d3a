package attest

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Parsers of what the kernel writes.
var (
	PidInfo       = pidInfo
	StartTime     = startTime
	Cgroup2Mounts = cgroup2Mounts
	Cgroup2Path   = cgroup2Path
)

// NetNSFromProc is NetNS as on a kernel whose pidfds cannot tell.
func NetNSFromProc(p *Process) (*os.File, error) { return p.netNSFromProc() }

// OfProc is Of as on a kernel whose pidfds cannot tell.
func OfProc(t *Tree, p *Process) (Cgroup, error) { return t.ofProc(p) }

// Forget makes p one of a kernel without pidfs.
func Forget(p *Process) { p.inode = 0 }

// HasInode says whether p is one of a kernel with pidfs.
func HasInode(p *Process) bool { return p.inode != 0 }

// Dir is where the hierarchy is mounted, or "".
func Dir(t *Tree) string { return t.dir }

// PortID is the witness's address on netlink.
func PortID(w *Witness) (uint32, error) {
	a, err := unix.Getsockname(w.fd)
	if err != nil {
		return 0, err
	}
	return a.(*unix.SockaddrNetlink).Pid, nil
}

// Answer decodes an answer to the question about source and destination.
func Answer(b []byte, seq uint32, source, destination netip.AddrPort) (Socket, error) {
	r, err := decode(b, seq)
	if err != nil {
		return Socket{}, err
	}
	return r.client(question{source: source, destination: destination})
}

// Ask encodes the question about source and destination.
func Ask(seq uint32, source, destination netip.AddrPort) []byte {
	var b [sizeofQuestion]byte
	question{source: source, destination: destination}.encode(&b, seq)
	return b[:]
}

// WithoutListening says whether the text of /proc/PID/status shows none of the capabilities to listen in.
func WithoutListening(status string) bool {
	_, all, err := capabilitiesOf(status)
	return err == nil && all&listening == 0
}

// DecodeUnixPeer reads an answer of unix_diag.
func DecodeUnixPeer(b []byte) (uint32, error) { return decodeUnixPeer(b) }
