package control_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"taskrole/internal/control"
	"taskrole/internal/fault"
)

func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tr") //nolint:usetesting // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenModes(t *testing.T) {
	path := filepath.Join(newDir(t), "run", "agent.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode = %v, %v, want 0600", info.Mode(), err)
	}
	info, err = os.Stat(filepath.Dir(path))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("directory mode = %v, %v, want 0755", info.Mode(), err)
	}
}

func TestListenTakesOverADeadAgentsSocketButNotALivingOnes(t *testing.T) {
	path := filepath.Join(newDir(t), "agent.sock")
	dead, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := control.Listen(path)
	if err != nil {
		t.Fatalf("Listen over a dead socket: %v", err)
	}
	defer l.Close()
	if _, err := control.Listen(path); fault.CodeOf(err) != fault.AgentRunning {
		t.Errorf("Listen over a living socket = %v, want agent-running", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the living agent's socket is gone: %v", err)
	}
}

func TestListenRefusesWhatIsNotItsOwn(t *testing.T) {
	dir := newDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	stream := filepath.Join(dir, "stream")
	l, err := net.Listen("unix", stream)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]fault.Code{
		file:                             fault.ConfigInvalid,
		link:                             fault.ConfigInvalid,
		stream:                           fault.AgentRunning,
		"relative.sock":                  fault.ConfigInvalid,
		"/" + strings.Repeat("long", 40): fault.ConfigInvalid,
	} {
		if _, err := control.Listen(path); fault.CodeOf(err) != want {
			t.Errorf("Listen(%q) = %v, want %s", path, err, want)
		}
	}
	for _, path := range []string{file, link, stream} {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("Listen removed %s", path)
		}
	}
}

func TestOfTwoAgentsThatStartAtOnceExactlyOneListens(t *testing.T) {
	path := filepath.Join(newDir(t), "agent.sock")
	var wg sync.WaitGroup
	listeners := make([]*net.UnixListener, 8)
	for i := range listeners {
		wg.Go(func() { listeners[i], _ = control.Listen(path) })
	}
	wg.Wait()
	n := 0
	for _, l := range listeners {
		if l != nil {
			n++
			l.Close()
		}
	}
	if n != 1 {
		t.Errorf("%d agents listen, want 1", n)
	}
}
