package hook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/hook"
)

// agent records what it was asked, and answers with err.
type agent struct {
	err error

	mu       sync.Mutex // guards what follows
	requests []control.AttachRequest
	pids     []string // the Pid: lines of the pidfds
	sameNS   []bool   // the namespace is this process's own
}

func (a *agent) Attach(_ context.Context, r control.AttachRequest, pidfd, netns *os.File) (control.AttachReply, error) {
	defer pidfd.Close()
	defer netns.Close()
	info, _ := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	pid := ""
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid = strings.TrimSpace(v)
		}
	}
	own, ownErr := os.Stat("/proc/self/ns/net")
	theirs, err := netns.Stat()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, r)
	a.pids = append(a.pids, pid)
	a.sameNS = append(a.sameNS, err == nil && ownErr == nil && os.SameFile(own, theirs))
	return control.AttachReply{Container: r.ID, Role: r.Role}, a.err
}

func (a *agent) List(context.Context) (control.ListReply, error) { return control.ListReply{}, nil }

func (a *agent) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// newAgent serves a and returns its socket.
func newAgent(t *testing.T, a control.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tr") //nolint:usetesting // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		control.Serve(ctx, l, a, slog.New(slog.DiscardHandler), control.WithPeers(func(uint32) error { return nil }))
	})
	t.Cleanup(func() { cancel(); wg.Wait(); os.RemoveAll(dir) })
	return l.Addr().String()
}

var id = strings.Repeat("3f", 32)

func stateOf(pid int) string {
	return fmt.Sprintf(`{"ociVersion":"1.2.0","id":%q,"status":"created","pid":%d,"bundle":"/run/b","annotations":{"a":"b"},"new":[1]}`, id, pid)
}

func run(t *testing.T, stdin string, args ...string) (code int, stderr string) {
	t.Helper()
	var b bytes.Buffer
	code = hook.Run(t.Context(), strings.NewReader(stdin), args, &b)
	return code, b.String()
}

func TestHookHandsTheContainerOver(t *testing.T) {
	a := &agent{}
	socket := newAgent(t, a)
	for _, args := range [][]string{
		{"--role", "s3-reader", "--socket", socket},
		{"--role=s3-reader", "--socket=" + socket, "--way", "shim", "--timeout", "5s"},
	} {
		if code, stderr := run(t, stateOf(os.Getpid()), args...); code != 0 || stderr != "" {
			t.Fatalf("hook %q: exit %d, stderr %q", args, code, stderr)
		}
	}
	want := control.AttachRequest{Role: "s3-reader", ID: container.ID(id), Bundle: "/run/b", Way: container.WayCDI}
	wantShim := want
	wantShim.Way = container.WayShim
	a.mu.Lock()
	defer a.mu.Unlock()
	if diff := cmp.Diff([]control.AttachRequest{want, wantShim}, a.requests); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if pid := fmt.Sprint(os.Getpid()); a.pids[0] != pid {
		t.Errorf("pidfd is of process %s, want %s", a.pids[0], pid)
	}
	if !a.sameNS[0] {
		t.Error("the namespace is not the process's")
	}
}

func TestRefusalOfTheAgentIsOneLine(t *testing.T) {
	a := &agent{err: fault.New(fault.RoleNotAllowed, "container web may not\nhold role s3-reader", "add a rule")}
	code, stderr := run(t, stateOf(os.Getpid()), "--role", "s3-reader", "--socket", newAgent(t, a))
	if want := "taskrole: container web may not hold role s3-reader: add a rule [role-not-allowed]\n"; code != 1 || stderr != want {
		t.Errorf("exit %d, stderr %q, want 1, %q", code, stderr, want)
	}
	a = &agent{err: fault.New(fault.STSDenied, strings.Repeat("long\x1b ", 1000), "")}
	code, stderr = run(t, stateOf(os.Getpid()), "--role", "s3-reader", "--socket", newAgent(t, a))
	if code != 1 || strings.Count(stderr, "\n") != 1 || len(stderr) > hook.MaxLine+40 || !strings.HasSuffix(stderr, "… [sts-denied]\n") ||
		strings.Contains(stderr, "\x1b") {
		t.Errorf("exit %d, stderr of %d bytes: %q", code, len(stderr), stderr)
	}
}

func TestNoAgent(t *testing.T) {
	code, stderr := run(t, stateOf(os.Getpid()), "--role", "r", "--socket", "/nonexistent/agent.sock")
	want := `taskrole: the taskrole agent does not answer at /nonexistent/agent.sock: start it with "taskrole agent"` +
		" (or systemctl start taskrole), or start the container without a role [agent-unreachable]\n"
	if code != 1 || stderr != want {
		t.Errorf("exit %d, stderr %q, want 1, %q", code, stderr, want)
	}
}

func TestWrongWords(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"--role", ""},
		{"--role", "r", "extra"},
		{"--role", "r", "--way", "tv"},
		{"--role", "r", "--timeout", "0s"},
		{"--role", "r", "--timeout", "9h"},
		{"--rule", "r"},
		{"--role"},
	} {
		code, stderr := run(t, stateOf(os.Getpid()), args...)
		if code != fault.ExitUsage || !strings.HasSuffix(stderr, "[usage]\n") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("hook %q: exit %d, stderr %q", args, code, stderr)
		}
	}
}

// zombie is a process that has ended and is still in the table.
func zombie(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/proc/self/exe", []string{"x", "-test.run=^$"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Wait() })
	err = unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.Pid
}

// dead is a process id that was in use a moment ago.
func dead(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/proc/self/exe", []string{"x", "-test.run=^$"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	return p.Pid
}

func TestBadStateIsRefusedBeforeTheAgentIsAsked(t *testing.T) {
	a := &agent{}
	socket := newAgent(t, a)
	good := stateOf(os.Getpid())
	for name, c := range map[string]struct {
		stdin string
		want  fault.Code
	}{
		"empty":          {"", fault.RequestInvalid},
		"blank":          {" \n", fault.RequestInvalid},
		"truncated":      {good[:len(good)/2], fault.RequestInvalid},
		"not_json":       {"\x00\x01hello", fault.RequestInvalid},
		"a_list":         {"[" + good + "]", fault.RequestInvalid},
		"null":           {"null", fault.RequestInvalid},
		"two":            {good + good, fault.RequestInvalid},
		"huge":           {good[:len(good)-1] + `,"x":"` + strings.Repeat("x", hook.MaxState) + `"}`, fault.RequestInvalid},
		"pid_is_text":    {`{"id":"a","pid":"1","bundle":"/b"}`, fault.RequestInvalid},
		"pid_fraction":   {`{"id":"a","pid":1.5,"bundle":"/b"}`, fault.RequestInvalid},
		"pid_overflow":   {`{"id":"a","pid":99999999999999999999,"bundle":"/b"}`, fault.RequestInvalid},
		"pid_zero":       {stateOf(0), fault.RequestInvalid},
		"pid_negative":   {stateOf(-1), fault.RequestInvalid},
		"pid_over_2_32":  {stateOf(1<<32 + os.Getpid()), fault.RequestInvalid},
		"no_id":          {`{"pid":1,"bundle":"/b"}`, fault.RequestInvalid},
		"id_is_a_path":   {`{"id":"../../etc","pid":1,"bundle":"/b"}`, fault.RequestInvalid},
		"id_with_escape": {`{"id":"a\u001b[2J","pid":1,"bundle":"/b"}`, fault.RequestInvalid},
		"bundle_list":    {`{"id":"a","pid":1,"bundle":["/b"]}`, fault.RequestInvalid},
		"bundle_rel":     {`{"id":"a","pid":1,"bundle":"b"}`, fault.RequestInvalid},
		"stopped":        {strings.Replace(good, "created", "stopped", 1), fault.ContainerGone},
		"pid_dead":       {stateOf(dead(t)), fault.ContainerGone},
		"pid_zombie":     {stateOf(zombie(t)), fault.ContainerGone},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // two runs, same result
				code, stderr := run(t, c.stdin, "--role", "r", "--socket", socket)
				if code != 1 || !strings.HasPrefix(stderr, "taskrole: ") || !strings.HasSuffix(stderr, " ["+string(c.want)+"]\n") ||
					strings.Count(stderr, "\n") != 1 || strings.ContainsAny(stderr, "\x00\x1b") {
					t.Errorf("exit %d, stderr %q, want 1 and one line with %s", code, stderr, c.want)
				}
			}
		})
	}
	if n := a.asked(); n != 0 {
		t.Errorf("the agent was asked %d times, want never", n)
	}
}

func TestStdinThatNeverEndsIsGivenUp(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	var b bytes.Buffer
	started := time.Now()
	code := hook.Run(t.Context(), r, []string{"--role", "r", "--timeout", "50ms"}, &b)
	if code != 1 || !strings.Contains(b.String(), "[request-invalid]") {
		t.Errorf("exit %d, stderr %q, want a refusal", code, b.String())
	}
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestAgentThatNeverAnswersIsGivenUp(t *testing.T) {
	socket := newAgent(t, slow{})
	code, stderr := run(t, stateOf(os.Getpid()), "--role", "r", "--socket", socket, "--timeout", "50ms")
	if code != 1 || !strings.Contains(stderr, "in time") || !strings.HasSuffix(stderr, "[agent-unreachable]\n") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

type slow struct{}

func (slow) Attach(ctx context.Context, _ control.AttachRequest, pidfd, netns *os.File) (control.AttachReply, error) {
	defer pidfd.Close()
	defer netns.Close()
	<-ctx.Done()
	return control.AttachReply{}, ctx.Err()
}

func (slow) List(context.Context) (control.ListReply, error) { return control.ListReply{}, nil }

func FuzzParseState(f *testing.F) {
	f.Add([]byte(stateOf(1)))
	f.Add([]byte(stateOf(1)[:40]))
	f.Add([]byte(`{"id":"a","pid":1e3}`))
	f.Add([]byte(`{"ID":"a","Pid":1,"pid":2,"status":"stopped"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, pid, bundle, err := hook.ParseState(b)
		if err != nil {
			if c := fault.CodeOf(err); c != fault.RequestInvalid && c != fault.ContainerGone {
				t.Errorf("ParseState(%q) = %v, want request-invalid or container-gone", b, err)
			}
			if len(err.Error()) > hook.MaxLine {
				t.Errorf("ParseState: sentence of %d bytes", len(err.Error()))
			}
			return
		}
		if !container.ID(id).Valid() || pid <= 0 || bundle != "" && !filepath.IsAbs(bundle) {
			t.Errorf("ParseState(%q) let %q, %d, %q through", b, id, pid, bundle)
		}
	})
}
