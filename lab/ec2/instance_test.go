package ec2_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"taskrole/internal/netns"
	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
)

const metadata = "http://169.254.169.254/"

func TestInstanceReachesTheCloudAroundIt(t *testing.T) {
	i := launch(t, ec2.Options{})
	path := client(t)
	for url, want := range map[string]string{
		metadata:        "metadata to 10.99.0.10",
		i.ServicesURL(): "services to 10.99.0.10",
		i.ControlURL():  "control to 10.99.0.10",
	} {
		if exit, out := finish(t, i.Start, path, "GET", url); exit != 0 || out != want {
			t.Errorf("GET %s: exit %d, %q, want %q", url, exit, out, want)
		}
	}
	if exit, out := finish(t, i.Start, path, "PUT", metadata); exit != 0 {
		t.Errorf("PUT with hop limit 1 from the instance: exit %d, %s", exit, out)
	}
	if exit, out := finish(t, i.Start, path, "GET", "http://192.0.2.1/"); exit != 2 || !strings.Contains(out, "unreachable") {
		t.Errorf("a foreign address: exit %d, %s, want that the network is unreachable", exit, out)
	}
}

func TestControlSocketAnswersTheMachine(t *testing.T) {
	i := launch(t, ec2.Options{})
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", i.ControlSocket())
	}}
	resp, err := (&http.Client{Transport: transport}).Get("http://lab/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.HasPrefix(string(body), "control") {
		t.Errorf("the control socket answers %q", body)
	}
}

func TestStartGivesACleanEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "must-not-leak")
	i := launch(t, ec2.Options{})
	if _, out := finish(t, i.Start, client(t), "env"); !strings.HasPrefix(out, "PATH=") || strings.Contains(out, "\n") {
		t.Errorf("the environment is %q, want just PATH", out)
	}
}

func TestHopLimitEndsAtTheInstance(t *testing.T) {
	path := client(t)
	for _, c := range []struct {
		hopLimit, exit int
	}{{1, 1}, {2, 0}, {64, 0}} {
		i := launch(t, ec2.Options{Cloud: fakeCloud{hopLimit: c.hopLimit}})
		start := behind(t, i)
		if exit, out := finish(t, start, path, "PUT", metadata); exit != c.exit {
			t.Errorf("hop limit %d: PUT from a routed namespace: exit %d, %s, want %d", c.hopLimit, exit, out, c.exit)
		}
		if exit, out := finish(t, start, path, "GET", metadata); exit != 0 || out != "metadata to 10.99.128.2" {
			t.Errorf("hop limit %d: GET from a routed namespace: exit %d, %q", c.hopLimit, exit, out)
		}
		if exit, out := finish(t, start, path, "GET", i.ServicesURL()); exit != 0 {
			t.Errorf("hop limit %d: services from a routed namespace: exit %d, %s", c.hopLimit, exit, out)
		}
	}
}

// behind makes a namespace that the instance routes for, and returns how to start processes in it.
func behind(t *testing.T, i *ec2.Instance) func(*exec.Cmd) error {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	do := func(n *netns.NS, f func() error) {
		t.Helper()
		if _, err := netns.Do(n, func() (struct{}, error) { return struct{}{}, f() }); err != nil {
			t.Fatal(err)
		}
	}
	up := func(name, cidr string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	}
	do(i.NS(), func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.FD())}
		return errors.Join(netlink.LinkAdd(pair), up("c0", "10.99.128.1/24"))
	})
	do(ns, func() error {
		return errors.Join(up("eth0", "10.99.128.2/24"), netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 99, 128, 1)}))
	})
	return func(cmd *exec.Cmd) error {
		_, err := netns.Do(ns, func() (struct{}, error) { return struct{}{}, cmd.Start() })
		return err
	}
}

func TestCloseEndsProcesses(t *testing.T) {
	i := launch(t, ec2.Options{})
	cmd := exec.CommandContext(t.Context(), client(t), "wait")
	if err := i.Start(cmd); err != nil {
		t.Fatal(err)
	}
	closeInstance(t, i)
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process ended with %v, want that it was killed", err)
	}
	if err := i.Start(exec.CommandContext(t.Context(), "/bin/true")); err == nil {
		t.Error("Start works on a closed instance")
	}
}

func TestLaunchThatFailsLeavesNothing(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.NetNS)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tooLong := filepath.Join(t.TempDir(), strings.Repeat("x", 110))
	for name, c := range map[string]struct {
		ctx context.Context
		dir string
	}{
		"cancelled":       {cancelled, filepath.Join(t.TempDir(), "lab")},
		"socket_too_long": {t.Context(), tooLong},
	} {
		if i, err := ec2.Launch(c.ctx, ec2.Options{Cloud: fakeCloud{}, Dir: c.dir}); err == nil {
			_ = i.Close()
			t.Errorf("%s: Launch succeeds", name)
		}
		if _, err := os.Stat(c.dir); err == nil {
			t.Errorf("%s: the directory is left", name)
		}
	}
	// TestMain sees descriptors, and with them namespaces, that are left open.
}
