package ec2_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/leftover"
)

// This program is its own client and supervisor: TestMain runs it again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ec2.EngineVerb:
			os.Exit(ec2.EngineMain(os.Stdin, os.Stdout))
		case "probe":
			os.Exit(probe(os.Args[2:]))
		case "doomed":
			os.Exit(doomed(os.Args[2:]))
		}
	}
	os.Exit(testkit.Main(m))
}

// probe asks for METHOD URL and prints the body. Exit status 1 is a time-out, 2 any other error.
func probe(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, args[0], args[1], nil)
	if err != nil {
		return 3
	}
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return 1
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		return 2
	}
	defer resp.Body.Close()
	_, _ = os.Stdout.ReadFrom(resp.Body)
	return 0
}

// fakeCloud answers with single words. Its metadata service limits the hops of PUT answers as the real one does.
type fakeCloud struct{ hopLimit int }

func word(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(s + " " + strings.SplitN(r.RemoteAddr, ":", 2)[0]))
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
		_, _ = w.Write([]byte("metadata"))
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
	i, err := ec2.Launch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		traces := i.Traces()
		begin := time.Now()
		if err := i.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		t.Logf("closed in %v", time.Since(begin))
		nothingLeft(t, traces)
	})
	return i
}

func nothingLeft(t *testing.T, traces leftover.Traces) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Second)
	defer cancel()
	found, err := traces.Wait(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, f := range found {
		t.Errorf("left behind: %s", f)
	}
}
