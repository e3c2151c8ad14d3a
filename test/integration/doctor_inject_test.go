//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"taskrole/internal/netns"
	"taskrole/lab/ec2"
)

// prepare makes the files, the image and the network that conditions need.
func (w *world) prepare(t *testing.T) {
	t.Helper()
	dir := w.files()
	check(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	profile := "[default]\naws_access_key_id = %s\naws_secret_access_key = " + theSecret + "\n"
	for name, text := range map[string]string{
		"session":    fmt.Sprintf(profile, theASIA) + "aws_session_token = " + theToken + "\n",
		"long-lived": fmt.Sprintf(profile, theAKIA), "bare": fmt.Sprintf(profile, theASIA), "half": "[default]\naws_access_key_id = " + theASIA + "\n",
		"empty": "", "token": theToken, "newline": theToken + "\n", "private": theToken,
	} {
		mode := os.FileMode(0o644)
		if name == "private" {
			mode = 0o600
		}
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), mode))
	}
	files := map[string]string{"/probe": bin("taskrole-lab-probe")}
	check(t, w.docker.ImportFiles(t.Context(), "probe-user", files, `ENTRYPOINT ["/probe"]`, "USER 1000"))
	w.must(t, "network", "create", "--internal", "doctor-internal")
	t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "network", "rm", "doctor-internal") })
}

// files is a directory that the engine sees.
func (w *world) files() string { return filepath.Join(w.dir, "run", "doctor") }

// container is the container of a condition.
func (w *world) container(i injected) ec2.Container {
	c := i.c
	// The SDK looks for credentials at once, says what it has, and stays.
	c.Detach, c.Files = true, map[string]string{}
	if len(c.Args) == 0 {
		c.Args = []string{"do", "keys", "--", "env", "HOSTNAME", "--", "sleep", "10m"}
	}
	if c.Image == "" {
		c.Image = "probe"
	}
	c.Name = "doctor-" + strings.NewReplacer(" ", "-", "'", "", ",", "").Replace(strings.ToLower(i.name))
	if c.Role != "" {
		c.Way = w.way
	}
	for inside, name := range i.mount {
		c.Files[filepath.Join(w.files(), name)] = inside
	}
	if !i.plain {
		c.Env = append(slices.Clone(c.Env), regions...)
	}
	return c
}

// atOnce is how many of the engine's commands run together.
const atOnce = 4

// startTogether starts, a few at a time, the containers of those conditions that need nothing else before.
func (w *world) startTogether(t *testing.T, conditions []injected) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, i := range conditions {
		if i.before != nil {
			continue
		}
		c := w.container(i)
		w.removeLater(t, c.Name)
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if _, err := w.docker.Run(ctx, c); err != nil { // one that does not start is for the doctor
				t.Errorf("%s: %v", i.name, err)
			}
		})
	}
	all.Wait()
}

// inject makes a condition, whose container starts now if it could not before, and returns its name.
func (w *world) inject(t *testing.T, i injected) string {
	t.Helper()
	c := w.container(i)
	if i.before != nil {
		w.startTogether(t, []injected{{name: i.name, c: i.c, plain: i.plain, mount: i.mount}})
	}
	for addr, h := range i.serve {
		w.serveInside(t, c.Name, addr, h)
	}
	return c.Name
}

// removeLater removes a container, with all others of the test, at its end: one command for all is quicker.
func (w *world) removeLater(t *testing.T, name string) {
	t.Helper()
	if w.doomed == nil {
		t.Cleanup(func() {
			r, err := w.docker.Exec(context.WithoutCancel(t.Context()), append([]string{"rm", "-f", "-v"}, w.doomed...)...)
			if err != nil || r.Exit != 0 {
				t.Errorf("docker rm: %v %s", err, r.Stderr)
			}
			w.doomed = nil
		})
	}
	w.doomed = append(w.doomed, name)
}

// inside calls f with a container's network namespace.
func (w *world) inside(t *testing.T, id string, f func(*netns.NS) error) {
	t.Helper()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", w.pid(t, id)))
	check(t, err)
	defer ns.Close()
	check(t, f(ns))
}

// serveInside answers in a container's network namespace.
func (w *world) serveInside(t *testing.T, id string, addr netip.AddrPort, h http.HandlerFunc) {
	t.Helper()
	w.inside(t, id, func(ns *netns.NS) error {
		if _, err := ns.AddAddresses([]netip.Addr{addr.Addr()}); err != nil {
			return err
		}
		l, err := netns.Do(ns, func() (net.Listener, error) { return net.Listen("tcp4", addr.String()) })
		if err != nil {
			return err
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		return nil
	})
}

// lose makes what a container sends to the addresses go nowhere: to a neighbour that is not there.
func (w *world) lose(t *testing.T, id string, addrs ...netip.Addr) func() {
	t.Helper()
	w.inside(t, id, func(ns *netns.NS) error {
		_, err := netns.Do(ns, func() (struct{}, error) {
			for _, a := range addrs {
				dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
				if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.IPv4(10, 99, 16, 250)}); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		return err
	})
	return func() {}
}

// unsteer takes the program away that leads to the endpoint, as somebody with the host's rights can.
func (w *world) unsteer(t *testing.T, id string) {
	t.Helper()
	st, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", w.pid(t, id)))
	check(t, err)
	inode := st.Sys().(*syscall.Stat_t).Ino
	n := 0
	links := link.Iterator{}
	for links.Next() {
		if info, err := links.Link.Info(); err == nil && info.NetNs() != nil && uint64(info.NetNs().NetnsInode) == inode {
			check(t, links.Link.Detach())
			n++
		}
	}
	if err := links.Err(); err != nil || n != 1 {
		t.Fatalf("%d programs steer in the container: %v", n, err)
	}
}

// redirect sends what a container sends to one address to another one, as a container with CAP_NET_ADMIN can.
func (w *world) redirect(t *testing.T, id string, from, to netip.AddrPort) {
	t.Helper()
	w.inside(t, id, func(ns *netns.NS) error {
		c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "foreign", Family: nftables.TableFamilyIPv4})
		chain := c.AddChain(&nftables.Chain{
			Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}, // the destination
			&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: from.Addr().AsSlice()},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // its port
			&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: binary.BigEndian.AppendUint16(nil, from.Port())},
			&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
			&expr.Redir{RegisterProtoMin: 1},
		}})
		return c.Flush()
	})
}
