package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// handler is a Handler of functions.
type handler struct {
	attach func(ctx context.Context, r control.AttachRequest, pidfd, netns *os.File) (control.AttachReply, error)
	list   func(ctx context.Context) (control.ListReply, error)
}

func (h handler) Attach(ctx context.Context, r control.AttachRequest, pidfd, netns *os.File) (control.AttachReply, error) {
	defer pidfd.Close()
	defer netns.Close()
	return h.attach(ctx, r, pidfd, netns)
}

func (h handler) List(ctx context.Context) (control.ListReply, error) { return h.list(ctx) }

func attachOK(_ context.Context, r control.AttachRequest, _, _ *os.File) (control.AttachReply, error) {
	return control.AttachReply{Container: r.ID, Role: r.Role}, nil
}

func anybody(uint32) error { return nil }

// newSocket serves h and returns the socket's path and a function that stops the server and waits.
func newSocket(t *testing.T, h control.Handler, opts ...control.Option) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(newDir(t), "agent.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	opts = append([]control.Option{control.WithPeers(anybody)}, opts...)
	go func() { done <- control.Serve(ctx, l, h, slog.New(slog.DiscardHandler), opts...) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve = %v, want nil after its context ended", err)
			}
		case <-time.After(4 * time.Second):
			t.Error("Serve does not return after its context ended")
		}
	}
	t.Cleanup(stop)
	return path, stop
}

// newFile is a descriptor with a text behind it.
func newFile(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newRequest() control.AttachRequest {
	return control.AttachRequest{
		Role: "s3-reader", ID: container.ID(strings.Repeat("ab", 32)), Bundle: "/run/bundle", Way: container.WayCDI,
	}
}

func TestAttachHandsOverRequestAndDescriptorsInOrder(t *testing.T) {
	type call struct {
		Request        control.AttachRequest
		Pidfd, NetNSFD string
	}
	calls := make(chan call, 1)
	want := control.AttachReply{
		Container: newRequest().ID, Role: "s3-reader", RoleARN: "arn:aws:iam::123456789012:role/x",
		Session: "s3-reader-abab", Already: true, Endpoints: []string{"169.254.170.2:80"},
	}
	path, _ := newSocket(t, handler{attach: func(_ context.Context, r control.AttachRequest, pidfd, netns *os.File) (control.AttachReply, error) {
		a, _ := io.ReadAll(pidfd)
		b, _ := io.ReadAll(netns)
		calls <- call{r, string(a), string(b)}
		return want, nil
	}})
	answer, err := control.Attach(t.Context(), path, newRequest(), newFile(t, "pidfd"), newFile(t, "netns"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, answer); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(call{newRequest(), "pidfd", "netns"}, <-calls); diff != "" {
		t.Errorf("request and texts of the descriptors (-want +got):\n%s", diff)
	}
}

func TestFaultsTravelWithoutTheirCause(t *testing.T) {
	secret := errors.New("the cause")
	path, _ := newSocket(t, handler{attach: func(context.Context, control.AttachRequest, *os.File, *os.File) (control.AttachReply, error) {
		return control.AttachReply{}, fmt.Errorf("attach: %w",
			fault.Wrap(secret, fault.RoleNotAllowed, "container web may not hold role s3-reader", "add it"))
	}})
	_, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
	if got, want := fmt.Sprint(err), "container web may not hold role s3-reader: add it [role-not-allowed]"; got != want {
		t.Errorf("Attach = %q, want %q", got, want)
	}
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		t.Errorf("Attach returned a %T, want a fault", err)
	}
}

func TestListArrivesWholeAndSortedHoweverLong(t *testing.T) {
	var all control.ListReply
	const many = 1500 // about 300 kB: five packets
	for i := range many {
		all.Containers = append(all.Containers, control.Attached{
			ID: container.ID(fmt.Sprintf("%064d", many-i)), Role: "r", RoleARN: "arn:aws:iam::123456789012:role/r",
			Way: container.WayShim, PID: i + 1, Since: time.Unix(int64(i), 0).UTC(),
		})
	}
	path, _ := newSocket(t, handler{list: func(context.Context) (control.ListReply, error) { return all, nil }})
	got, err := control.List(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Containers) != many {
		t.Fatalf("List returned %d containers, want %d", len(got.Containers), many)
	}
	for i, c := range got.Containers {
		if diff := cmp.Diff(all.Containers[many-1-i], c); diff != "" {
			t.Fatalf("container %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestListOfNothingIsEmpty(t *testing.T) {
	path, _ := newSocket(t, handler{list: func(context.Context) (control.ListReply, error) { return control.ListReply{}, nil }})
	got, err := control.List(t.Context(), path)
	if err != nil || len(got.Containers) != 0 {
		t.Errorf("List = %v, %v, want nothing", got, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	path := filepath.Join(newDir(t), "agent.sock")
	want := "the taskrole agent does not answer at " + path + `: start it with "taskrole agent" (or systemctl start taskrole),` +
		" or start the container without a role [agent-unreachable]"
	_, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
	if fmt.Sprint(err) != want {
		t.Errorf("no socket: %v\nwant %s", err, want)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
	if fmt.Sprint(err) != want {
		t.Errorf("dead socket: %v\nwant %s", err, want)
	}
}

func TestDeadlineOfTheCallerEndsTheWaitAndTheHandler(t *testing.T) {
	ended := make(chan error, 1)
	path, _ := newSocket(t, handler{attach: func(ctx context.Context, _ control.AttachRequest, _, _ *os.File) (control.AttachReply, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return control.AttachReply{}, ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := control.Attach(ctx, path, newRequest(), newFile(t, ""), newFile(t, ""))
	if fault.CodeOf(err) != fault.AgentUnreachable || !strings.Contains(err.Error(), "in time") {
		t.Errorf("Attach = %v, want agent-unreachable that speaks of time", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Attach = %v, want the deadline as the cause", err)
	}
	select {
	case <-ended:
	case <-time.After(4 * time.Second):
		t.Error("the handler's context outlives its caller")
	}
}

func TestPanicOfTheHandlerCostsOneAnswer(t *testing.T) {
	var calls atomic.Int32
	path, _ := newSocket(t, handler{attach: func(ctx context.Context, r control.AttachRequest, a, b *os.File) (control.AttachReply, error) {
		if calls.Add(1) == 1 {
			panic("bug")
		}
		return attachOK(ctx, r, a, b)
	}})
	_, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
	if fault.CodeOf(err) != fault.Internal || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("Attach = %v, want an internal fault without the stack", err)
	}
	if _, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, "")); err != nil {
		t.Errorf("the next request = %v, want an answer", err)
	}
}

func TestOnlyRootMayTalk(t *testing.T) {
	refuse := func(uid uint32) error {
		if int(uid) != os.Getuid() {
			t.Errorf("peer's uid = %d, want %d", uid, os.Getuid())
		}
		return fault.New(fault.PermissionDenied, "user 1000 may not talk to the taskrole agent", "")
	}
	path, _ := newSocket(t, handler{attach: attachOK}, control.WithPeers(refuse))
	for range 50 { // the answer must arrive before the connection's end in any order of things
		_, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
		if fault.CodeOf(err) != fault.PermissionDenied {
			t.Fatalf("Attach = %v, want permission-denied", err)
		}
	}
}

func TestStopEndsHandlersAndWaits(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	path, stop := newSocket(t, handler{attach: func(ctx context.Context, _ control.AttachRequest, _, _ *os.File) (control.AttachReply, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return control.AttachReply{}, ctx.Err()
	}})
	answered := make(chan error, 1)
	go func() {
		_, err := control.Attach(t.Context(), path, newRequest(), newFile(t, ""), newFile(t, ""))
		answered <- err
	}()
	<-started
	stop()
	select {
	case <-ended:
	default:
		t.Error("Serve returned before its handler")
	}
	if err := <-answered; err == nil {
		t.Error("Attach = nil, want a fault: the agent stopped")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
