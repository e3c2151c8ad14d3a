package attach_test

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

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/netns"
	"taskrole/internal/testkit"
)

// childVariable turns the test binary into a container's process: it does what its standard input says.
const childVariable = "TASKROLE_ATTACH_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		childMain()
		return
	}
	os.Exit(testkit.Main(m))
}

// childMain answers "get URL", "serve ADDRESS" and "hold URL" (open a connection and keep it), one line each.
func childMain() {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "get":
			fmt.Println(childGet(client, arg))
		case "serve":
			l, err := net.Listen("tcp4", arg)
			if err == nil {
				go func() {
					_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the application") }))
				}()
			}
			fmt.Println(err)
		case "hold":
			_, err := net.DialTimeout("tcp", arg, 5*time.Second) // stays open until the process ends
			fmt.Println(err)
		}
	}
}

func childGet(client *http.Client, url string) string {
	res, err := client.Get(url)
	if err != nil {
		return "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d %s %v", res.StatusCode, b, err)
}

// child is a process in a namespace, and in a cgroup of its own where the machine allows it.
type child struct {
	t   *testing.T
	ns  *netns.NS
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.SkLookup)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// startChild starts a process in ns and in the cgroup, which may be empty for the test's own.
func startChild(t *testing.T, ns *netns.NS, cgroup string) *child {
	t.Helper()
	c := &child{t: t, ns: ns, cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = []string{childVariable + "=1", "AWS_EC2_METADATA_DISABLED=true"}
	c.cmd.Stderr = os.Stderr
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = dir.Close() }()
		c.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if _, err := netns.Do(ns, func() (struct{}, error) { return struct{}{}, c.cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	return c
}

// end ends the process and waits for it.
func (c *child) end() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// do sends one line and returns the answer.
func (c *child) do(line string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%s: the process does not answer: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

// target opens the process as the hook would.
func (c *child) target(id container.ID, role string) attach.Target {
	c.t.Helper()
	p, err := attest.OpenProcess(c.cmd.Process.Pid)
	if err != nil {
		c.t.Fatal(err)
	}
	f, err := p.NetNS()
	if err != nil {
		c.t.Fatal(err)
	}
	ns, err := netns.FromFile(f)
	if err != nil {
		c.t.Fatal(err)
	}
	return attach.Target{ID: id, Role: role, Way: container.WayCDI, Process: p, NS: ns}
}

// newCgroup makes a cgroup v2 of the test's own and returns its directory.
func newCgroup(t *testing.T) string {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.Cgroup2)
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "taskrole-test-") //nolint:usetesting // a cgroup is made in the cgroup file system
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeCgroup(t, dir) })
		return dir
	}
	t.Fatal("no cgroup v2 hierarchy")
	return ""
}

// removeCgroup waits for the last process to leave: a cgroup stays busy for a moment after it.
func removeCgroup(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
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
			t.Error(err)
			return
		case <-tick.C:
		}
	}
}
