//go:build integration

package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"taskrole/internal/nft"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

const hostMetadata = "http://169.254.169.254/latest/meta-data/"

// guard reloads the agent with a guard, for the rest of the test.
func (w *world) guard(tb testing.TB, text string) {
	tb.Helper()
	w.rewrite(tb, w.config()+"guard: "+text+"\n")
	before := len(w.log())
	w.reload(tb)
	eventually(tb, func() error {
		if said := w.log()[before:]; !strings.Contains(said, "configuration reloaded") {
			return fmt.Errorf("the agent does not reload: %s", said)
		}
		return nil
	})
}

// reaches says whether a plain container reaches the host's metadata service.
func (w *world) reaches(tb testing.TB, network ec2.Network) bool {
	tb.Helper()
	// It stays a while, so that it can be named.
	name := "asks-on-" + string(network)
	id := w.live(tb, ec2.Container{Name: name, Network: network})
	r := w.exec(tb, id, "get", "-timeout=700ms", hostMetadata)
	defer w.must(tb, "rm", "--force", id)
	return strings.Contains(string(r.Stdout), " 401 ") || strings.Contains(string(r.Stdout), " 200 ")
}

// says waits for a line in the agent's log with all the words in it.
func (w *world) says(tb testing.TB, words ...string) {
	tb.Helper()
	eventually(tb, func() error {
		for line := range strings.Lines(w.log()) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in the agent's log", words)
	})
}

// others is everything in nftables but our table.
func (w *world) others(tb testing.TB) (ours bool, rest []string) {
	tb.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(w.instance.NS().FD()))
	if err != nil {
		tb.Fatal(err)
	}
	chains, err := c.ListChains()
	if err != nil {
		tb.Fatal(err)
	}
	for _, ch := range chains {
		if ch.Table.Name == nft.TableName {
			ours = true
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			tb.Fatal(err)
		}
		rest = append(rest, fmt.Sprintf("%d %s %s", ch.Table.Family, ch.Table.Name, ch.Name))
		for _, r := range rules {
			rest = append(rest, fmt.Sprintf("  %d, %d expressions", r.Handle, len(r.Exprs)))
		}
	}
	return ours, rest
}

func TestGuardKeepsContainersOffTheHostsIdentity(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		t.Parallel() // most of it is waiting for answers that do not come
		networks := []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkHost}
		for _, n := range networks {
			if !w.reaches(t, n) {
				t.Fatalf("without the guard, a container on %s does not reach the service: the test proves nothing", n)
			}
		}
		_, before := w.others(t)
		w.guard(t, "enforce")
		for _, n := range networks {
			if w.reaches(t, n) {
				t.Errorf("a container on %s reaches the host's metadata service", n)
			}
		}
		wantRole(t, w.run(t, "reader", ec2.NetworkBridge), cloud.TaskReader)
		wantRole(t, w.host(t, nil, bin("taskrole-lab-probe"), "identity"), cloud.InstanceRole)
		w.says(t, "host's identity", `"container":"asks-on-bridge"`, `"dropped":true`)
		w.says(t, "host's identity", `"container":"asks-on-host"`, `"dropped":true`)
		if ours, after := w.others(t); !ours || cmp.Diff(before, after) != "" {
			t.Errorf("our table: %v; the others: %s", ours, cmp.Diff(before, after))
		}

		// Without an agent it would be gone; the one that runs puts it back.
		if r := w.host(t, nil, bin("taskrole"), "guard", "remove"); r.Exit != 0 || string(r.Stdout) != "the guard's table is removed\n" {
			t.Errorf("taskrole guard remove: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		eventually(t, func() error {
			if ours, _ := w.others(t); !ours {
				return errors.New("the table is not put back")
			}
			return nil
		})

		w.guard(t, "audit")
		if !w.reaches(t, ec2.NetworkBridge) {
			t.Error("audit keeps a container off")
		}
		bridge := w.must(t, "network", "inspect", "--format={{(index .IPAM.Config 0).Subnet}}", "bridge")
		w.guard(t, "{mode: enforce, except: [{network: "+bridge+"}]}")
		if bridge, custom := w.reaches(t, ec2.NetworkBridge), w.reaches(t, ec2.NetworkCustom); !bridge || custom {
			t.Errorf("with an exception for the bridge: bridge %v, custom %v", bridge, custom)
		}
		w.guard(t, "{mode: enforce, except: [{name: monitor-*}]}")
		monitor := w.live(t, ec2.Container{Name: "monitor-7", Network: ec2.NetworkHost})
		eventually(t, func() error {
			if r := w.exec(t, monitor, "get", "-timeout=500ms", hostMetadata); len(r.Stdout) == 0 {
				return fmt.Errorf("the excepted container on the host's network: %s", r.Stderr)
			}
			return nil
		})
		if w.reaches(t, ec2.NetworkHost) {
			t.Error("with an exception for another, a container on the host's network reaches the service")
		}
		w.guard(t, `"off"`)
		if r := w.host(t, nil, bin("taskrole"), "guard", "remove"); r.Exit != 0 || string(r.Stdout) != "there is no table of the guard\n" {
			t.Errorf("taskrole guard remove: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		if ours, after := w.others(t); ours || cmp.Diff(before, after) != "" {
			t.Errorf("with the guard off: our table: %v; the others: %s", ours, cmp.Diff(before, after))
		}
	})
}
