package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/netns"
	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
	"taskrole/lab/engine"
	"taskrole/lab/engine/ocirun"
)

// TestMain is the runtime when called by its name, as the lab's program is, and a stand-in for the shim.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case ocirun.Name:
		os.Exit(ocirun.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	case "refusing-shim":
		os.Exit(refuse())
	}
	os.Exit(m.Run())
}

// refuse is a shim that says no as the real one must: in the file that --log names.
func refuse() int {
	for i, a := range os.Args {
		if a == "--log" {
			if err := os.WriteFile(os.Args[i+1], []byte(`{"level":"error","msg":"this role is not for you"}`+"\n"), 0o600); err != nil {
				return 2
			}
		}
	}
	return 1
}

// place is an instance without an ec2.Instance: one namespace, and processes started in it.
type place struct {
	ns *netns.NS
	mu sync.Mutex
	n  int
}

func (p *place) NS() *netns.NS { return p.ns }

func (p *place) Start(cmd *exec.Cmd) error {
	p.mu.Lock()
	p.n++
	p.mu.Unlock()
	_, err := netns.Do(p.ns, func() (struct{}, error) { return struct{}{}, cmd.Start() })
	return err
}

func newEngine(t *testing.T, shim string) (*engine.Engine, *place, string) {
	t.Helper()
	testkit.Need(t, testkit.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if shim != "" {
		link := filepath.Join(t.TempDir(), shim)
		if err := os.Symlink(self, link); err != nil {
			t.Fatal(err)
		}
		shim = link
	}
	p := &place{ns: ns}
	dir := filepath.Join(t.TempDir(), "engine")
	e, err := engine.New(engine.Options{Instance: p, Dir: dir, Runtime: self, Shim: shim})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the engine's directory is left: %v", err)
		}
	})
	return e, p, dir
}

// shell is a container that runs a script with the machine's own programs.
func shell(network ec2.Network, script string) ec2.Container {
	files := map[string]string{}
	for _, dir := range []string{"/bin", "/usr", "/lib", "/lib64", "/sbin"} {
		if _, err := os.Stat(dir); err == nil {
			files[dir] = dir
		}
	}
	return ec2.Container{Network: network, Files: files, Args: []string{"/bin/sh", "-c", script}}
}

func TestRunReturnsExitAndOutputOfTheContainer(t *testing.T) {
	e, _, _ := newEngine(t, "")
	c := shell(ec2.NetworkNone, `echo out $WORD; echo err >&2; exit 3`)
	c.Env = []string{"WORD=word"}
	r, err := e.Run(t.Context(), c)
	if err != nil || r.Exit != 3 || string(r.Stdout) != "out word\n" || string(r.Stderr) != "err\n" || r.Elapsed <= 0 {
		t.Errorf("Run = %+v, %v", r, err)
	}
}

func TestNetworksAreWhatTheirNamesSay(t *testing.T) {
	e, p, _ := newEngine(t, "")
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("this test looks from inside with ip: install iproute2")
	}
	list := `ip -o addr show scope global | grep -o 'inet [^ ]*'; ip route; cat /proc/self/net/dev | grep -c :`
	outputs := map[ec2.Network]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkHost, ec2.NetworkNone} {
		wg.Go(func() {
			r, err := e.Run(t.Context(), shell(n, list))
			if err != nil || r.Exit != 0 {
				t.Errorf("%s: %+v, %v", n, r, err)
			}
			mu.Lock()
			defer mu.Unlock()
			outputs[n] = string(r.Stdout)
		})
	}
	wg.Wait()
	for n, want := range map[ec2.Network]string{
		ec2.NetworkBridge: "default via 10.99.128.1 dev eth0", ec2.NetworkCustom: "default via 10.99.129.1 dev eth0",
		ec2.NetworkHost: "10.99.128.0/24 dev lab0", ec2.NetworkNone: "1\n",
	} {
		if !strings.Contains(outputs[n], want) {
			t.Errorf("%s: %q lacks %q", n, outputs[n], want)
		}
	}
	if outputs[ec2.NetworkNone] != "1\n" {
		t.Errorf("none has more than lo: %q", outputs[ec2.NetworkNone])
	}
	if p.n < 12 {
		t.Errorf("%d processes started in the instance: the runtime ran elsewhere", p.n)
	}
}

func TestARefusalByTheRuntimeIsAResultInItsWords(t *testing.T) {
	e, _, dir := newEngine(t, "refusing-shim")
	c := shell(ec2.NetworkNone, "true")
	c.Way, c.Role = container.WayShim, "app"
	r, err := e.Run(t.Context(), c)
	if err != nil || r.Exit != 125 || string(r.Stderr) != "OCI runtime create failed: this role is not for you\n" {
		t.Errorf("Run = %+v, %v", r, err)
	}
	if left, _ := filepath.Glob(dir + "/*/*"); len(left) != 1 { // the runtime's link
		t.Errorf("left: %v", left)
	}
}

func TestAContainerThatCannotStartIsAResult(t *testing.T) {
	e, _, _ := newEngine(t, "")
	c := shell(ec2.NetworkNone, "true")
	c.Args = []string{"/nowhere"}
	if r, err := e.Run(t.Context(), c); err != nil || r.Exit == 0 || !strings.Contains(string(r.Stderr), "/nowhere") {
		t.Errorf("Run = %+v, %v", r, err)
	}
	c.Files = map[string]string{"/nowhere": "/x"}
	if r, err := e.Run(t.Context(), c); err != nil || r.Exit != 125 || !strings.Contains(string(r.Stderr), "mount") {
		t.Errorf("Run = %+v, %v", r, err)
	}
}

func TestWhatTheEngineCannotDoIsAnError(t *testing.T) {
	e, _, _ := newEngine(t, "")
	c := shell(ec2.NetworkNone, "true")
	c.Way = container.WayCDI
	if _, err := e.Run(t.Context(), c); err == nil {
		t.Error("a CDI device is accepted")
	}
	if _, err := e.Run(t.Context(), shell("nonsense", "true")); err == nil {
		t.Error("a network called nonsense is accepted")
	}
}

func TestTheEndOfTheContextEndsTheContainer(t *testing.T) {
	e, _, _ := newEngine(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	r, err := e.Run(ctx, shell(ec2.NetworkBridge, "sleep 60"))
	if !errors.Is(err, context.DeadlineExceeded) || r.Exit != 137 {
		t.Errorf("Run = %+v, %v", r, err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestTheNextEngineRemovesTheCgroupsOfOneThatWasKilled(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.Cgroup2)
	root := ocirun.CgroupRoot()
	killed := exec.Command("/bin/true")
	if err := killed.Run(); err != nil {
		t.Fatal(err)
	}
	dead := fmt.Sprintf("%s/taskrole-lab-ns-%d-test", root, killed.Process.Pid)
	alive := fmt.Sprintf("%s/taskrole-lab-ns-%d-test", root, os.Getpid())
	for _, dir := range []string{dead + "/container", alive} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Remove(alive)
	newEngine(t, "")
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("the cgroup of a living process is gone: %v", err)
	}
}

func TestCloseEndsDetachedContainersAndRefusesMore(t *testing.T) {
	e, p, _ := newEngine(t, "")
	c := shell(ec2.NetworkCustom, "sleep 60")
	c.Name, c.Detach = "one", true
	r, err := e.Run(t.Context(), c)
	if err != nil || r.Exit != 0 || len(strings.TrimSpace(string(r.Stdout))) != 64 {
		t.Fatalf("Run = %+v, %v", r, err)
	}
	if _, err := e.Run(t.Context(), c); err == nil {
		t.Error("two containers have one name")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := e.Run(t.Context(), c); err == nil {
		t.Error("a closed engine runs a container")
	}
	left, err := netns.Do(p.ns, func() ([]byte, error) { return os.ReadFile("/proc/thread-self/net/dev") })
	if err != nil || strings.Contains(string(left), "lab0") {
		t.Errorf("interfaces left: %v\n%s", err, left)
	}
}
