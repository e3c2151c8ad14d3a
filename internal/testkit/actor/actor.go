// Package actor is a process that stands in for a container's in tests: it lives in a namespace and a cgroup of the
// test's choice and does what the test tells it, so that a request really comes from there. It is the test binary
// itself, started again.
//
// It refuses to be clever: three verbs, one line each. Only tests import it.
package actor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/netns"
	"taskrole/internal/testkit"
)

// variable turns the test binary into an actor.
const variable = "TASKROLE_TEST_ACTOR"

// patience bounds every request of an actor, and the wait for its cgroup.
const patience = 5 * time.Second

// Main must be called first in TestMain, which returns at once if the answer is true: then this was an actor, and its
// test has ended.
func Main() bool {
	if os.Getenv(variable) == "" {
		return false
	}
	perform(context.Background(), os.Stdin, os.Stdout)
	return true
}

// perform answers "get URL [HEADER: VALUE]", "put URL HEADER: VALUE", "serve ADDRESS" and "hold ADDRESS" (open a
// connection and keep it), one line each.
func perform(ctx context.Context, r io.Reader, w io.Writer) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	in := bufio.NewScanner(r)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		var answer any
		switch verb {
		case "get", "put":
			answer = request(ctx, client, strings.ToUpper(verb), arg)
		case "serve":
			answer = serve(ctx, arg)
		case "hold":
			_, answer = (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", arg) // stays open until the process ends
		}
		_, _ = fmt.Fprintln(w, answer)
	}
}

func request(ctx context.Context, client *http.Client, method, arg string) string {
	url, header, _ := strings.Cut(arg, " ")
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err.Error()
	}
	if key, value, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(key, value)
	}
	res, err := client.Do(req)
	if err != nil {
		return "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%d %s", res.StatusCode, strings.ReplaceAll(string(b), "\n", " "))
}

func serve(ctx context.Context, addr string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		ReadHeaderTimeout: patience,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the application") }),
	}
	go func() { _ = srv.Serve(l) }() // until the process ends
	return nil
}

// Actor is one such process.
type Actor struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// NewNS makes a network namespace that goes with the test.
func NewNS(tb testing.TB) *netns.NS {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.SkLookup)
	ns, err := netns.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ns.Close() })
	return ns
}

// Start starts a process in ns and in the cgroup, a directory; "" is the test's own. It ends with the test.
func Start(tb testing.TB, ns *netns.NS, cgroup string) *Actor {
	tb.Helper()
	return start(tb, cgroup, func(cmd *exec.Cmd) error {
		_, err := netns.Do(ns, func() (struct{}, error) { return struct{}{}, cmd.Start() })
		return err
	})
}

// StartHere starts a process in the test's own namespace, where it must ask for nothing.
func StartHere(tb testing.TB) *Actor {
	tb.Helper()
	return start(tb, "", (*exec.Cmd).Start)
}

// StartIn is StartHere in a cgroup, a directory.
func StartIn(tb testing.TB, cgroup string) *Actor {
	tb.Helper()
	return start(tb, cgroup, (*exec.Cmd).Start)
}

func start(tb testing.TB, cgroup string, run func(*exec.Cmd) error) *Actor {
	tb.Helper()
	c := &Actor{tb: tb, cmd: exec.CommandContext(context.WithoutCancel(tb.Context()), "/proc/self/exe")}
	c.cmd.Env = []string{variable + "=1", "AWS_EC2_METADATA_DISABLED=true"}
	c.cmd.Stderr = os.Stderr
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = dir.Close() }()
		c.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := run(c.cmd); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.End)
	return c
}

// PID is its number.
func (c *Actor) PID() int { return c.cmd.Process.Pid }

// End ends the process and waits for it. It may be called more than once.
func (c *Actor) End() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// Do sends one line and returns the answer: "STATUS BODY", "error: …", or "<nil>" where there is nothing to say.
func (c *Actor) Do(line string) string {
	c.tb.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.tb.Fatal(err)
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		c.tb.Fatalf("%s: the process does not answer: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

// NewCgroup makes a cgroup v2 that goes with the test, and returns its directory.
func NewCgroup(tb testing.TB) string {
	tb.Helper()
	testkit.Need(tb, testkit.Root, testkit.Cgroup2)
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "taskrole-test-") //nolint:usetesting // a cgroup is made in the cgroup file system
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { RemoveCgroup(tb, dir) })
		return dir
	}
	tb.Fatal("no cgroup v2 hierarchy")
	return ""
}

// RemoveCgroup waits for the last process to leave: a cgroup stays busy for a moment after it.
func RemoveCgroup(tb testing.TB, dir string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := os.Remove(dir)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Error(err)
			return
		case <-tick.C:
		}
	}
}
