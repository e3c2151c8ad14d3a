package attest_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"taskrole/internal/attest"
	"taskrole/internal/testkit"
)

func TestUnixPeerIsWhoHasAccepted(t *testing.T) {
	testkit.Need(t, testkit.Root)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	check(t, err)
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	check(t, err)
	defer c.Close()
	if p, err := attest.UnixPeer(c.(*net.UnixConn)); !errors.Is(err, attest.ErrNoSocket) {
		t.Errorf("nobody has accepted, and the peer is %v, %v", p, err)
	}
	s, err := l.Accept()
	check(t, err)
	p, err := attest.UnixPeer(c.(*net.UnixConn))
	check(t, err)
	defer p.Close()
	if p.PID() != os.Getpid() {
		t.Errorf("the peer is process %d, and it is us, %d", p.PID(), os.Getpid())
	}
	check(t, s.Close())
	if p, err := attest.UnixPeer(c.(*net.UnixConn)); err == nil {
		t.Errorf("the peer has hung up, and is %v", p)
	}
}

func TestDecodeUnixPeerOfBrokenAnswers(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 15), make([]byte, 64), append(make([]byte, 32), 255, 255, 2, 0), append(make([]byte, 32), 0, 0, 2, 0)} {
		if len(b) > 5 {
			b[4] = 20 // SOCK_DIAG_BY_FAMILY
		}
		if peer, err := attest.DecodeUnixPeer(b); err == nil {
			t.Errorf("%v has the peer %d", b, peer)
		}
	}
}
