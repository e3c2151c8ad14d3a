//go:build integration

package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"taskrole/internal/container"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/engineroot"
)

// The axes of the matrix.
const networkOther ec2.Network = "container:X"

func networks() []ec2.Network {
	return []ec2.Network{ec2.NetworkNone, ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkHost, networkOther}
}

func waysIn() []container.Way {
	return []container.Way{container.WayCDI, container.WayShim, container.WayLabel}
}

// cell is one combination, in the world of its engine.
type cell struct {
	*world
	network ec2.Network
	way     container.Way
}

// TestMatrix tries each engine, network and way in, and prints what it saw. A cell that cannot be has a reason, and is
// tried as well: there must be no role in it.
func TestMatrix(t *testing.T) {
	all := slices.Concat(engines, others)
	seen := map[string][]string{} // by network and way: one result for each engine
	for _, network := range networks() {
		for _, way := range waysIn() {
			seen[rowOf(network, way)] = make([]string, len(all))
		}
	}
	t.Run("on", func(t *testing.T) {
		for column, e := range all {
			onOther(t, e.name, func(t *testing.T, w *world) {
				t.Parallel() // with the other engines
				for _, network := range networks() {
					for _, way := range waysIn() {
						result := &seen[rowOf(network, way)][column]
						t.Run(string(network)+"_"+string(way), func(t *testing.T) {
							*result = "FAILED"
							if said := (cell{w, network, way}).try(t); !t.Failed() {
								*result = said
							}
						})
						eventually(t, func() error { return w.idle(t) }) // its containers are gone
					}
				}
			})
		}
	})
	var table strings.Builder
	lines := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(lines, "network\tway in")
	for _, e := range all {
		fmt.Fprint(lines, "\t"+e.name)
	}
	for _, network := range networks() {
		for _, way := range waysIn() {
			row := rowOf(network, way)
			fmt.Fprint(lines, "\n"+row+"\t"+strings.Join(seen[row], "\t"))
		}
	}
	if err := lines.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
	page, err := os.ReadFile("../../doc/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, row := range seen {
		tried += len(slices.DeleteFunc(slices.Clone(row), func(s string) bool { return s == "" }))
	}
	if all := len(all) * len(networks()) * len(waysIn()); tried == all && !strings.Contains(string(page), "\n"+table.String()+"\n") {
		t.Error("doc/engines.md has another table")
	}
}

func rowOf(network ec2.Network, way container.Way) string {
	return string(network) + "\t" + string(way)
}

// try returns what the table shows.
func (c cell) try(t *testing.T) string {
	switch {
	case c.way == container.WayLabel && c.kind != engineroot.Docker:
		c.withoutRole(t)
		return "-- labels are followed on Docker alone"
	case c.way == container.WayLabel && c.network == ec2.NetworkHost:
		c.refusedLate(t, c.live(t, c.asks(t, "reader", c.network)), "host-network")
		return "-- IMDS is the host's there"
	case c.network == ec2.NetworkCustom && c.kind == engineroot.Containerd:
		return "-- ctr knows one CNI network" // nothing of ours to try
	case c.way == container.WayCDI && !slices.Contains(c.docker.WaysIn(), c.way):
		c.noSuchDevice(t)
		return "-- knows no CDI"
	case c.way == container.WayLabel:
		return c.late(t)
	default:
		return c.fromTheStart(t)
	}
}

// asks is a container that asks for the role.
func (c cell) asks(t *testing.T, role string, network ec2.Network) ec2.Container {
	t.Helper()
	if network == networkOther {
		network = ec2.Network("container:" + c.live(t, ec2.Container{Network: ec2.NetworkNone, Options: confined}))
	}
	asked := ec2.Container{Role: role, Network: network, Way: c.way, Options: confined}
	if c.way == container.WayLabel {
		asked.Way, asked.Role, asked.Labels = "", "", map[string]string{"taskrole": role}
	}
	return asked
}

// fromTheStart: the first request of the first process has the role, beside a container with another one that keeps
// its own; and a container whose role AWS refuses does not start.
func (c cell) fromTheStart(t *testing.T) string {
	other := c.asks(t, "writer", c.network)
	writer := c.live(t, other)
	reader := c.asks(t, "reader", other.Network) // the same namespace where the network is shared
	wantRole(t, c.start(t, reader), cloud.TaskReader)
	wantCredentials(t, c.credentialsOf(t, writer), cloud.TaskWriter)
	denied := c.asks(t, "untrusted", other.Network)
	if r := c.start(t, denied); c.tellsWhy() {
		refused(t, r, "sts-denied", "not authorized")
	} else if r.Exit == 0 || len(r.Stdout) > 0 {
		t.Errorf("a refused container started: %s", r.Stdout)
	}
	return "own role"
}

// tellsWhy says whether the engine shows what a refused hook says. crun drops it; and behind the shim, runc adds a
// warning about the machine's cgroups to its log, which Podman then cannot read.
func (c cell) tellsWhy() bool { return c.kind != engineroot.Podman }

// late: the container runs already when it gets its role, and keeps out of the other's.
func (c cell) late(t *testing.T) string {
	other := c.asks(t, "writer", c.network)
	writer := c.live(t, other)
	c.gets(t, writer, "writer")
	asked := c.asks(t, "reader", other.Network)
	if c.network == networkOther {
		// One that is met before its program may still do all that its runtime may, and is refused whatever it asks for.
		// One that is met later is refused for what it may do itself, so let it: which of the two it is, is a race.
		asked.Options = nil
	}
	reader := c.live(t, asked)
	if c.network == networkOther {
		c.refusedLate(t, reader, "namespace-shared")
		wantNotTheirs(t, c.credentialsOf(t, reader))
		wantCredentials(t, c.credentialsOf(t, writer), cloud.TaskWriter)
		return "own role, late; one only"
	}
	c.gets(t, reader, "reader")
	wantCredentials(t, c.credentialsOf(t, reader), cloud.TaskReader)
	wantCredentials(t, c.credentialsOf(t, writer), cloud.TaskWriter)
	return "own role, late"
}

// gets waits until the container has the role by its label.
func (c cell) gets(t *testing.T, id, role string) {
	t.Helper()
	eventually(t, func() error {
		for _, a := range c.attached(t) {
			if string(a.ID) == id && a.Role == role && a.Way == container.WayLabel {
				return nil
			}
		}
		return fmt.Errorf("%.12s has not got the role %s", id, role)
	})
}

// withoutRole: nobody has noticed that the container asks.
func (c cell) withoutRole(t *testing.T) {
	if c.network == ec2.NetworkCustom && c.kind == engineroot.Containerd {
		return
	}
	id := c.live(t, c.asks(t, "reader", c.network))
	if got := c.credentialsOf(t, id); strings.Contains(got, "200 OK") || strings.Contains(got, "ASIA") {
		t.Errorf("the container has credentials: %.200s", got)
	}
}

// noSuchDevice: to this engine it is a device file that is not there.
func (c cell) noSuchDevice(t *testing.T) {
	r, err := c.docker.Exec(t.Context(), "run", "--rm", "--device=taskrole/role=reader", "--network=none", "probe")
	if err != nil || r.Exit == 0 || !strings.Contains(string(r.Stderr), "taskrole/role=reader") {
		t.Errorf("exit %d, %v, %s", r.Exit, err, r.Stderr)
	}
}

// TestPodOfAnotherKind: as Kubernetes makes pods, with a pause container whose namespace the others join.
func TestPodOfAnotherKind(t *testing.T) {
	onOther(t, "containerd-2.1", func(t *testing.T, w *world) {
		pause := w.live(t, ec2.Container{Network: ec2.NetworkNone, Options: confined})
		neighbours(t, w, ec2.Network("container:"+pause))
		wantNotTheirs(t, w.credentialsOf(t, pause))
	})
}
