package ec2_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/leftover"
)

// This program is its own supervisor, and a lab that is going to be killed: TestMain runs it again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ec2.EngineVerb:
			os.Exit(ec2.EngineMain(os.Stdin, os.Stdout))
		case "doomed":
			os.Exit(doomed(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(testkit.Main(m))
}

// client builds the test client, static whatever this program is.
func client(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./testdata/client")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	return path
}

// fakeCloud answers with single words and the caller's address. Its metadata service limits the hops of PUT answers
// as the real one does.
type fakeCloud struct{ hopLimit int }

func word(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.RemoteAddr, ":")
		_, _ = w.Write([]byte(s + " to " + host))
	})
}

func (fakeCloud) Services() http.Handler { return word("services") }
func (fakeCloud) Control() http.Handler  { return word("control") }

type connKey struct{}

func (c fakeCloud) MetadataServer() *http.Server {
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			raw, err := r.Context().Value(connKey{}).(*net.TCPConn).SyscallConn()
			if err != nil {
				panic(err)
			}
			_ = raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, c.hopLimit)
			})
		}
		word("metadata").ServeHTTP(w, r)
	}
	return &http.Server{
		Handler:     http.HandlerFunc(h),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

// launch makes an instance that is checked, at the end of the test, to have left nothing.
func launch(t *testing.T, o ec2.Options) *ec2.Instance {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.NetNS)
	if o.Cloud == nil {
		o.Cloud = fakeCloud{hopLimit: 1}
	}
	begin := time.Now()
	i, err := ec2.Launch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("launched in %v", time.Since(begin))
	t.Cleanup(func() { closeInstance(t, i) })
	return i
}

func closeInstance(t *testing.T, i *ec2.Instance) {
	t.Helper()
	traces := i.Traces()
	begin := time.Now()
	if err := i.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	t.Logf("closed in %v", time.Since(begin))
	nothingLeft(t, traces)
}

func nothingLeft(t *testing.T, traces leftover.Traces) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	found, err := traces.Wait(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, f := range found {
		t.Errorf("left behind: %s", f)
	}
}

// finish waits for a started command and returns its exit status and what it printed.
func finish(t *testing.T, start func(*exec.Cmd) error, path string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}
