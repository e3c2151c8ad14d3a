package nft_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/internal/nft"
	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

func (w *world) put(r nft.Rules) *nft.Table {
	w.tb.Helper()
	t := nft.Open(w.host)
	check(w.tb, t.Put(r))
	return t
}

func TestContainersDoNotReachTheService(t *testing.T) {
	w := newWorld(t)
	ways := map[string]func(string){
		"a socket":                          w.from(w.container, imds4),
		"a socket, IPv6":                    w.from(w.container, imds6),
		"a raw frame":                       w.raw(container4, imds4),
		"a raw frame, IPv6":                 w.raw(container6, imds6),
		"a raw frame from a made-up source": w.raw("10.9.2.77", imds4),
	}
	for name, send := range ways {
		if !w.arrives(send) {
			t.Fatalf("without the table, %s does not arrive: the test proves nothing", name)
		}
	}
	table := w.put(nft.Rules{Enforce: true})
	for name, send := range ways {
		if w.arrives(send) {
			t.Errorf("%s arrives", name)
		}
	}
	for _, to := range []string{imds4, imds6} {
		if !w.arrives(w.from(w.host, to)) {
			t.Errorf("the host itself does not reach %s", to)
		}
	}
	if was, err := table.Remove(); err != nil || !was {
		t.Errorf("Remove() = %v, %v", was, err)
	}
	for name, send := range ways {
		if !w.arrives(send) {
			t.Errorf("after removing the table, %s does not arrive", name)
		}
	}
	if was, err := table.Remove(); err != nil || was {
		t.Errorf("a second Remove() = %v, %v", was, err)
	}
}

// TestForwardIsTheSecondLock leads another address to the service behind the first lock's back, as a rule of the host
// for DNAT does.
func TestForwardIsTheSecondLock(t *testing.T) {
	w := newWorld(t)
	const other = "10.9.1.99"
	c := w.library()
	table := c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.MustParseAddr(other).AsSlice()},
		&expr.Immediate{Register: 1, Data: netip.MustParseAddr(imds4).AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	check(t, c.Flush())
	if !w.arrives(w.from(w.container, other)) {
		t.Fatal("the rule for DNAT does not lead to the service: the test proves nothing")
	}
	w.put(nft.Rules{Enforce: true})
	if w.arrives(w.from(w.container, other)) {
		t.Error("a packet to another address is led to the service")
	}
}

func (w *world) library() *nftables.Conn {
	w.tb.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(w.host.FD()))
	check(w.tb, err)
	return c
}

func TestListedNetworksKeepAccess(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		networks   []string
		four, six4 bool
	}{
		{[]string{"10.9.2.0/25"}, true, false},
		{[]string{"10.9.2.128/25", "fd09:2::/64"}, false, true},
		{[]string{"10.9.2.3/32", "10.9.2.2/32", "fd09:3::/64"}, true, false},
	} {
		r := nft.Rules{Enforce: true}
		for _, s := range tt.networks {
			r.Networks = append(r.Networks, netip.MustParsePrefix(s))
		}
		w.put(r)
		if got := w.arrives(w.from(w.container, imds4)); got != tt.four {
			t.Errorf("except %v: IPv4 arrives: %v", tt.networks, got)
		}
		if got := w.arrives(w.from(w.container, imds6)); got != tt.six4 {
			t.Errorf("except %v: IPv6 arrives: %v", tt.networks, got)
		}
	}
}

// TestSocketsOfContainersOnTheHostsNetwork has sockets in the host's own namespace, of a container, of a cgroup in it,
// of an exception and of the host.
func TestSocketsOfContainersOnTheHostsNetwork(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.NetNS, testkit.Cgroup2)
	w := newWorld(t)
	parent := actor.NewCgroup(t)
	sub := func(path ...string) string {
		dir := filepath.Join(append([]string{parent}, path...)...)
		check(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() { actor.RemoveCgroup(t, dir) })
		return dir
	}
	container, inside, excepted, service := sub("container"), sub("container", "inside"), sub("excepted"), sub("service")
	table := w.put(nft.Rules{Enforce: true})
	if !table.HostNetwork() {
		t.Fatal("this kernel cannot tell the host's own sockets apart")
	}
	refused := func(dir, to string) bool {
		var err error
		within(t, dir, func() { _, err = w.socket(w.host, to).Write([]byte("question")) })
		if err != nil && !errors.Is(err, syscall.EPERM) {
			t.Fatal(err)
		}
		return err != nil
	}
	want := func(what string, expected map[string]bool) {
		t.Helper()
		for dir, want := range expected {
			for _, to := range []string{imds4, imds6} {
				if got := refused(dir, to); got != want {
					t.Errorf("%s: %s to %s is refused: %v", what, filepath.Base(dir), to, got)
				}
			}
		}
	}
	want("nothing known", map[string]bool{container: false, inside: false, service: false})
	check(t, table.Cgroups(ids(t, container, excepted), ids(t, excepted)))
	want("two known, one excepted", map[string]bool{container: true, inside: true, excepted: false, service: false})
	check(t, table.Put(nft.Rules{Enforce: true}))
	want("made anew", map[string]bool{container: true, inside: true, excepted: false, service: false})
	check(t, table.Cgroups(ids(t, parent), ids(t, service)))
	want("their parent", map[string]bool{container: true, excepted: true, service: false})
	check(t, table.Cgroups(nil, nil))
	want("none any more", map[string]bool{container: false, excepted: false})
}

// ids are the ids of cgroups.
func ids(tb testing.TB, dirs ...string) map[uint64]bool {
	tb.Helper()
	all := map[uint64]bool{}
	for _, dir := range dirs {
		var st syscall.Stat_t
		check(tb, syscall.Stat(dir, &st))
		all[st.Ino] = true
	}
	return all
}

func TestAuditCountsWhoAsksAndLetsThemThrough(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.NetNS, testkit.Cgroup2)
	w := newWorld(t)
	dir := actor.NewCgroup(t)
	for _, enforce := range []bool{false, true} {
		table := w.put(nft.Rules{Enforce: enforce})
		check(t, table.Cgroups(ids(t, dir), nil))
		for range 3 {
			if got := w.arrives(w.from(w.container, imds4)); got == enforce {
				t.Errorf("enforce %v: it arrives: %v", enforce, got)
			}
		}
		w.arrives(w.raw("10.9.2.77", imds4))
		w.arrives(w.from(w.container, imds6))
		within(t, dir, func() { w.send(w.host, imds4, "x") })
		asked, err := table.Asked()
		check(t, err)
		got := map[string]bool{}
		for _, a := range asked {
			if a.Packets == 0 {
				t.Errorf("%+v asked and sent nothing", a)
			}
			if a.Cgroup != 0 {
				got["a cgroup"] = ids(t, dir)[a.Cgroup]
				continue
			}
			got[a.Source.String()] = true
		}
		want := map[string]bool{container4: true, container6: true, "10.9.2.77": true, "a cgroup": true}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("enforce %v: %s", enforce, diff)
		}
	}
}

// TestMoreWhoAskThanAreRemembered has somebody make up source addresses until no more can be noted.
func TestMoreWhoAskThanAreRemembered(t *testing.T) {
	w := newWorld(t)
	table := w.put(nft.Rules{Enforce: true})
	var sources []string
	for i := range 4096 + 100 {
		sources = append(sources, fmt.Sprintf("10.9.%d.%d", 16+i/256, i%256))
	}
	w.flood(sources, imds4)("flood")
	if w.arrives(w.raw("10.9.2.77", imds4)) {
		t.Error("with a full set, a packet arrives")
	}
	asked, err := table.Asked()
	if err != nil || len(asked) != 4096 {
		t.Errorf("%d are remembered, %v", len(asked), err)
	}
}

func TestTheTableIsPutBack(t *testing.T) {
	w := newWorld(t)
	table := w.put(nft.Rules{Enforce: true})
	check(t, table.Cgroups(map[uint64]bool{7: true}, nil))
	ours := &nftables.Table{Name: nft.TableName, Family: nftables.TableFamilyINet}
	chains := func(c *nftables.Conn, name string) *nftables.Chain {
		all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
		check(t, err)
		for _, ch := range all {
			if ch.Name == name && ch.Table.Name == nft.TableName {
				return ch
			}
		}
		t.Fatalf("no chain %s", name)
		return nil
	}
	if again, err := table.Check(); err != nil || again {
		t.Fatalf("Check() of an untouched table = %v, %v", again, err)
	}
	for name, harm := range map[string]func(*nftables.Conn){
		"flush ruleset":    func(c *nftables.Conn) { c.FlushRuleset() },
		"delete the table": func(c *nftables.Conn) { c.DelTable(ours) },
		"flush the table":  func(c *nftables.Conn) { c.FlushTable(ours) },
		"flush a chain":    func(c *nftables.Conn) { c.FlushChain(chains(c, "forward")) },
		"a rule before ours": func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: ours, Chain: chains(c, "prerouting"), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		},
		"empty a set": func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: ours, Name: "containers"}) },
	} {
		c := w.library()
		harm(c)
		check(t, c.Flush())
		if again, err := table.Check(); err != nil || !again {
			t.Errorf("Check() after %s = %v, %v", name, again, err)
		}
		if again, err := table.Check(); err != nil || again {
			t.Errorf("a second Check() after %s = %v, %v", name, again, err)
		}
		if w.arrives(w.from(w.container, imds4)) {
			t.Errorf("after %s a packet arrives", name)
		}
	}
}

// TestManyContainers has more than one message has room for.
func TestManyContainers(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.NetNS)
	host, err := netns.New()
	check(t, err)
	defer host.Close()
	many := map[uint64]bool{}
	for i := range uint64(10_000) {
		many[1<<40+i] = true
	}
	table := nft.Open(host)
	check(t, table.Put(nft.Rules{Enforce: true}))
	check(t, table.Cgroups(many, nil))
	check(t, table.Put(nft.Rules{Enforce: true}))
	begin := time.Now()
	many[7] = true
	check(t, table.Cgroups(many, nil))
	t.Logf("one more than 10,000: %s", time.Since(begin))
	if again, err := table.Check(); err != nil || again {
		t.Errorf("Check() = %v, %v", again, err)
	}
	c, err := nftables.New(nftables.WithNetNSFd(host.FD()))
	check(t, err)
	all, err := c.GetSetElements(&nftables.Set{Table: &nftables.Table{Name: nft.TableName, Family: nftables.TableFamilyINet}, Name: "containers"})
	if err != nil || len(all) != 10_001 {
		t.Errorf("%d in the set, %v", len(all), err)
	}
	check(t, table.Cgroups(nil, nil))
}

// TestWatchTellsOfChangesOfOurTableAlone also measures how long the table is away.
func TestWatchTellsOfChangesOfOurTableAlone(t *testing.T) {
	w := newWorld(t)
	table := w.put(nft.Rules{Enforce: true})
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1000)
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := table.Watch(ctx, func() { changed <- struct{}{} }); err != nil {
			t.Error(err)
		}
	})
	defer watching.Wait()
	defer cancel()
	<-changed // it sees everything from now on

	c := w.library()
	others := c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
	check(t, c.Flush())
	if len(changed) > 0 {
		t.Error("another table is told of")
	}
	c.FlushRuleset()
	begin := time.Now()
	check(t, c.Flush())
	<-changed
	if again, err := table.Check(); err != nil || !again {
		t.Fatalf("Check() = %v, %v", again, err)
	}
	t.Logf("the table was away for %s at most", time.Since(begin))
	if all, err := c.ListTables(); err != nil || len(all) != 1 {
		t.Errorf("tables now: %v, %v; %s was not ours to put back", all, err, others.Name)
	}
}
