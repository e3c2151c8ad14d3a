package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/control"
	"taskrole/internal/fault"
)

const goodAttach = `{"version":2,"attach":{"role":"r","id":"abc","way":"cdi"}}`

// raw says what it likes to the socket and returns the code of the answer.
func raw(t *testing.T, path, packet string, oob []byte) fault.Code {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := c.WriteMsgUnix([]byte(packet), oob, nil); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, control.MaxPacket)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no answer to %.80q: %v", packet, err)
	}
	var answer struct {
		Fault struct {
			Code fault.Code
			What string
		}
	}
	if err := json.Unmarshal(b[:n], &answer); err != nil {
		t.Fatalf("answer to %.80q: %v", packet, err)
	}
	return answer.Fault.Code
}

func rights(f *os.File, n int) []byte {
	fds := make([]int, n)
	for i := range fds {
		fds[i] = int(f.Fd())
	}
	return unix.UnixRights(fds...)
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestBadPacketsAreAnsweredAndLeaveNoDescriptor(t *testing.T) {
	path, _ := newSocket(t, handler{
		attach: attachOK,
		list:   func(context.Context) (control.ListReply, error) { return control.ListReply{}, nil },
	})
	f := newFile(t, "")
	long := strings.Repeat("x", control.MaxPacket)
	table := map[string]struct {
		packet string
		oob    []byte
		want   fault.Code
	}{
		"good":                    {goodAttach, rights(f, 2), ""},
		"no_descriptor":           {goodAttach, nil, fault.RequestInvalid},
		"one_descriptor":          {goodAttach, rights(f, 1), fault.RequestInvalid},
		"three_descriptors":       {goodAttach, rights(f, 3), fault.RequestInvalid},
		"as_many_as_fit":          {goodAttach, rights(f, 253), fault.RequestInvalid},
		"list_with_descriptors":   {`{"version":2,"list":{}}`, rights(f, 2), fault.RequestInvalid},
		"two_control_messages":    {goodAttach, append(rights(f, 1), rights(f, 2)...), fault.RequestInvalid},
		"not_json":                {"GET / HTTP/1.1\r\n\r\n", rights(f, 2), fault.RequestInvalid},
		"too_long":                {`{"version":2,"attach":{"role":"` + long + `"}}`, rights(f, 2), fault.RequestInvalid},
		"truncated":               {goodAttach[:40], rights(f, 2), fault.RequestInvalid},
		"other_version":           {`{"version":9,"surprise":true}`, rights(f, 2), fault.RequestInvalid},
		"no_version":              {`{"attach":{"role":"r","id":"abc","way":"cdi"}}`, rights(f, 2), fault.RequestInvalid},
		"unknown_member":          {`{"version":2,"attach":{"role":"r","id":"abc","way":"cdi","only_if":1}}`, rights(f, 2), fault.RequestInvalid},
		"both":                    {`{"version":2,"attach":{"role":"r","id":"abc","way":"cdi"},"list":{}}`, rights(f, 2), fault.RequestInvalid},
		"neither":                 {`{"version":2}`, rights(f, 2), fault.RequestInvalid},
		"text_after":              {goodAttach + goodAttach, rights(f, 2), fault.RequestInvalid},
		"no_role":                 {`{"version":2,"attach":{"id":"abc","way":"cdi"}}`, rights(f, 2), fault.RequestInvalid},
		"control_byte_in_role":    {`{"version":2,"attach":{"role":"a\nb","id":"abc","way":"cdi"}}`, rights(f, 2), fault.RequestInvalid},
		"path_as_id":              {`{"version":2,"attach":{"role":"r","id":"../etc","way":"cdi"}}`, rights(f, 2), fault.RequestInvalid},
		"unknown_way":             {`{"version":2,"attach":{"role":"r","id":"abc","way":"tv"}}`, rights(f, 2), fault.RequestInvalid},
		"relative_bundle":         {`{"version":2,"attach":{"role":"r","id":"abc","way":"cdi","bundle":"b"}}`, rights(f, 2), fault.RequestInvalid},
		"list_after_invalid_id":   {`{"version":2,"list":{"after":"/"}}`, nil, fault.RequestInvalid},
		"wrong_types":             {`{"version":"1"}`, nil, fault.RequestInvalid},
		"only_descriptors_a_byte": {` `, rights(f, 2), fault.RequestInvalid},
	}
	raw(t, path, goodAttach, rights(f, 2)) // whatever is opened once is open now
	before := openFDs(t)
	for name, c := range table {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				if got := raw(t, path, c.packet, c.oob); got != c.want {
					t.Errorf("answer code = %q, want %q", got, c.want)
				}
			}
		})
	}
	// A served connection is closed just after its answer was read.
	deadline := time.Now().Add(4 * time.Second)
	for openFDs(t) > before && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors open, %d before: some leaked", after, before)
	}
}

func TestReceivedDescriptorsAreCloseOnExec(t *testing.T) {
	flags := make(chan int, 2)
	path, _ := newSocket(t, handler{attach: func(ctx context.Context, r control.AttachRequest, a, b *os.File) (control.AttachReply, error) {
		for _, f := range []*os.File{a, b} {
			flag, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			flags <- flag
		}
		return attachOK(ctx, r, a, b)
	}})
	if _, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, "")); err != nil {
		t.Fatal(err)
	}
	for i := range cap(flags) {
		if <-flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is inherited by the agent's children", i)
		}
	}
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	path, _ := newSocket(t, handler{attach: attachOK}, control.WithTimeouts(50*time.Millisecond, time.Second))
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(4 * time.Second))
	b := make([]byte, control.MaxPacket)
	for {
		n, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a peer that sends nothing keeps its connection")
		}
		if err != nil || n == 0 {
			return // closed
		}
	}
}

func TestSilentPeersDoNotHoldUpTheStop(t *testing.T) {
	path, stop := newSocket(t, handler{attach: attachOK})
	for range control.MaxConns + 10 {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	stop() // fails the test after four seconds; a silent peer has five
}

func TestOnlySoManyRequestsRunAtOnce(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	release := make(chan struct{})
	path, _ := newSocket(t, handler{attach: func(ctx context.Context, r control.AttachRequest, a, b *os.File) (control.AttachReply, error) {
		mu.Lock()
		running++
		most = max(most, running)
		if running == control.MaxConns {
			close(release)
		}
		mu.Unlock()
		<-release
		mu.Lock()
		running--
		mu.Unlock()
		return attachOK(ctx, r, a, b)
	}})
	pidfd, netns := newFile(t, ""), newFile(t, "")
	pidfd.Fd() // once, before several goroutines send it
	var wg sync.WaitGroup
	for range control.MaxConns + 40 {
		wg.Go(func() {
			if _, err := control.Attach(t.Context(), path, newRequest(), pidfd, netns); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most > control.MaxConns {
		t.Errorf("%d requests ran at once, want at most %d", most, control.MaxConns)
	}
}

// fake answers every request with the packet.
func fake(t *testing.T, packet string) string {
	t.Helper()
	path := newDir(t) + "/s"
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1<<16))
			if packet != "" {
				c.Write([]byte(packet))
			}
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return path
}

func TestNonsenseFromTheOtherEndIsNotAnAttachment(t *testing.T) {
	for name, packet := range map[string]string{
		"nothing":         ``,
		"not_json":        `ok`,
		"empty":           `{}`,
		"other_version":   `{"version":9,"attach":{"container":"abab","role":"s3-reader"}}`,
		"other_container": `{"version":2,"attach":{"container":"cdcd","role":"s3-reader"}}`,
		"other_role":      `{"version":2,"attach":{"container":"` + strings.Repeat("ab", 32) + `","role":"admin"}}`,
		"a_list":          `{"version":2,"list":{}}`,
		"empty_fault":     `{"version":2,"fault":{}}`,
		"endless_list":    `{"version":2,"list":{"more":true}}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := fake(t, packet)
			if _, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, "")); fault.CodeOf(err) != fault.AgentUnreachable {
				t.Errorf("Attach = %v, want agent-unreachable", err)
			}
		})
	}
	if _, err := control.List(t.Context(), fake(t, `{"version":2,"list":{"containers":[{"id":"a"}],"more":true}}`)); err == nil {
		t.Error("List follows a list without an end")
	}
}

// Any user may open the socket's directory, and so lock it.
func TestALockedDirectoryDoesNotKeepTheAgentFromStarting(t *testing.T) {
	dir := newDir(t)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	listening := make(chan error, 1)
	go func() {
		l, err := control.Listen(filepath.Join(dir, "agent.sock"))
		if err == nil {
			err = l.Close()
		}
		listening <- err
	}()
	select {
	case err := <-listening:
		if err != nil {
			t.Errorf("Listen = %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Listen waits for a lock that anybody may hold")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v, %v", f, info.Mode(), err)
		}
	}
}
