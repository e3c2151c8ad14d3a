package netns_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/internal/testkit"
)

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// fresh is a namespace of the test's own.
func fresh(tb testing.TB) *netns.NS {
	tb.Helper()
	testkit.Need(tb, testkit.NetNS)
	n, err := netns.New()
	check(tb, err)
	tb.Cleanup(func() { _ = n.Close() })
	return n
}

func in(n *netns.NS, f func() error) error {
	_, err := netns.Do(n, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func TestDoRunsInsideAndLeavesTheProcessWhereItWas(t *testing.T) {
	n := fresh(t)
	before, err := os.Readlink("/proc/self/ns/net")
	check(t, err)
	var wg sync.WaitGroup
	for range 64 { // often enough to meet the main thread, which must not be taken away
		wg.Go(func() {
			inside, err := netns.Do(n, netns.Current)
			if err != nil {
				t.Error(err)
				return
			}
			defer inside.Close()
			if same, err := inside.Same(n); !same || err != nil {
				t.Errorf("Do ran in another namespace (%v)", err)
			}
		})
	}
	wg.Wait()
	after, err := os.Readlink("/proc/self/ns/net")
	check(t, err)
	if before != after {
		t.Errorf("the process has moved from %s to %s", before, after)
	}
	here, err := netns.Current()
	check(t, err)
	defer here.Close()
	if same, err := here.Same(n); same || err != nil {
		t.Errorf("the caller's thread is in the namespace (%v)", err)
	}
}

func TestDoThreadsDie(t *testing.T) {
	n := fresh(t)
	target, err := os.Readlink("/proc/self/ns/net")
	check(t, err)
	for range 32 {
		check(t, in(n, func() error { return nil }))
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		strangers := 0
		links, err := filepath.Glob("/proc/self/task/*/ns/net")
		check(t, err)
		for _, l := range links {
			if ns, err := os.Readlink(l); err == nil && ns != target {
				strangers++
			}
		}
		if strangers == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads are still in another namespace", strangers)
		}
		runtime.Gosched()
	}
}

func TestDoReturnsWhatTheFunctionReturns(t *testing.T) {
	n := fresh(t)
	sentinel := errors.New("sentinel")
	if v, err := netns.Do(n, func() (int, error) { return 7, sentinel }); v != 7 || !errors.Is(err, sentinel) {
		t.Errorf("Do = %d, %v", v, err)
	}
	if _, err := netns.Do(n, func() (int, error) { runtime.Goexit(); return 1, nil }); !errors.Is(err, netns.ErrExited) {
		t.Errorf("Do of a function that exits = %v, want ErrExited", err)
	}
}

func TestDoOnAClosedNamespaceIsAnError(t *testing.T) {
	n := fresh(t)
	check(t, n.Close())
	if err := in(n, func() error { return nil }); err == nil {
		t.Error("Do entered a closed namespace")
	}
}

func TestNewHasLoUpAndNothingElse(t *testing.T) {
	n := fresh(t)
	list, err := netns.Do(n, net.Interfaces)
	check(t, err)
	for _, i := range list {
		if i.Name == "lo" && i.Index == 1 && i.Flags&net.FlagUp != 0 {
			return
		}
	}
	t.Errorf("no lo that is up: %v", list)
}

func TestFromFileRefusesWhatIsNoNetworkNamespace(t *testing.T) {
	regular := filepath.Join(t.TempDir(), "net")
	check(t, os.WriteFile(regular, []byte("net:[4026531840]"), 0o600))
	for _, path := range []string{regular, "/proc/self/ns/mnt", "/proc/self/ns/pid", "/dev/null", "/proc/self/stat"} {
		f, err := os.Open(path)
		check(t, err)
		if n, err := netns.FromFile(f); !errors.Is(err, netns.ErrNotNetNS) {
			t.Errorf("FromFile(%s) = %v, %v, want ErrNotNetNS", path, n, err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("FromFile(%s) left the file open", path)
		}
	}
	if _, err := netns.Open("/nowhere/net"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}

func TestSameTellsNamespacesApart(t *testing.T) {
	a, b := fresh(t), fresh(t)
	again, err := netns.Do(a, netns.Current)
	check(t, err)
	defer again.Close()
	if same, err := a.Same(again); !same || err != nil || a.ID() != again.ID() {
		t.Errorf("one namespace, opened twice, differs: %v", err)
	}
	if same, err := a.Same(b); same || err != nil || a.ID() == b.ID() {
		t.Errorf("two namespaces are the same: %v", err)
	}
	if _, err := a.Same(nil); err == nil {
		t.Error("Same(nil) has an answer")
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// onLo are the addresses of the namespace's lo, with their prefix lengths.
func onLo(tb testing.TB, n *netns.NS) []string {
	tb.Helper()
	list, err := netns.Do(n, func() ([]net.Addr, error) {
		lo, err := net.InterfaceByIndex(1)
		if err != nil {
			return nil, err
		}
		return lo.Addrs()
	})
	check(tb, err)
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

var unordered = cmpopts.SortSlices(strings.Compare)

func TestAddAddressesAddsOnceAndRemoves(t *testing.T) {
	n := fresh(t)
	all := addrs("169.254.170.2", "169.254.169.254", "fd00:ec2::254", "127.0.0.1")
	before := onLo(t, n)
	added, err := n.AddAddresses(all)
	check(t, err)
	if diff := cmp.Diff(all[:3], added, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	want := append([]string{"169.254.170.2/32", "169.254.169.254/32", "fd00:ec2::254/128"}, before...)
	if diff := cmp.Diff(want, onLo(t, n), unordered); diff != "" {
		t.Errorf("on lo (-want +got):\n%s", diff)
	}
	// An agent that was killed comes back, and must know which are its own; IPv6 addresses cannot say.
	again, err := n.AddAddresses(all)
	if !slices.Equal(again, all[:2]) || err != nil {
		t.Errorf("the second call knows %v, %v as ours", again, err)
	}
	check(t, n.RemoveAddresses(added))
	check(t, n.RemoveAddresses(added))
	if diff := cmp.Diff(before, onLo(t, n), unordered); diff != "" {
		t.Errorf("after removal (-want +got):\n%s", diff)
	}
}

func TestForeignAndMissingAddresses(t *testing.T) {
	n := fresh(t)
	ours, theirs := addrs("169.254.170.2", "fd00:ec2::254"), addrs("169.254.169.254")
	_, err := n.AddAddresses(ours)
	check(t, err)
	_, err = netns.Do(n, func() (struct{}, error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(theirs[0].AsSlice())})
	})
	check(t, err)
	all := slices.Concat(ours, theirs, addrs("169.254.170.23"))
	if foreign, err := n.Foreign(all); !slices.Equal(foreign, theirs) || err != nil {
		t.Errorf("Foreign = %v, %v, want %v", foreign, err, theirs)
	}
	if added, err := n.AddAddresses(theirs); len(added) != 0 || err != nil {
		t.Errorf("another's address is taken for ours: %v, %v", added, err)
	}
	if missing, err := n.Missing(all); !slices.Equal(missing, addrs("169.254.170.23")) || err != nil {
		t.Errorf("Missing = %v, %v", missing, err)
	}
}

// TestAddedAddressesAnswerAtOnce: the kernel is not quite ready with an IPv6 address when it says so.
func TestAddedAddressesAnswerAtOnce(t *testing.T) {
	for range 60 {
		n := fresh(t)
		_, err := n.AddAddresses(addrs("169.254.170.2", "fd00:ec2::254"))
		check(t, err)
		for _, address := range []string{"169.254.170.2:9", "[fd00:ec2::254]:9"} {
			d := net.Dialer{Timeout: 700 * time.Millisecond} // less than a lost packet costs
			_, err := netns.Do(n, func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", address) })
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("connect to %s at once: %v, want a refusal", address, err)
			}
		}
		check(t, n.Close())
	}
}

func TestAddAddressesRefusesWhatAnotherDeviceHas(t *testing.T) {
	n := fresh(t)
	check(t, in(n, func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other"}, PeerName: "peer"}); err != nil {
			return err
		}
		other, err := netlink.LinkByName("other")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("169.254.170.2/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(other, a)
	}))
	before := onLo(t, n)
	if added, err := n.AddAddresses(addrs("169.254.169.254", "169.254.170.2")); err == nil {
		t.Errorf("AddAddresses = %v, want an error", added)
	}
	if diff := cmp.Diff(before, onLo(t, n), unordered); diff != "" {
		t.Errorf("left behind on lo (-want +got):\n%s", diff)
	}
}

func disableIPv6(n *netns.NS) error {
	return in(n, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) })
}

func TestAddAddressesLeavesOutIPv6WhereItIsDisabled(t *testing.T) {
	n := fresh(t)
	check(t, disableIPv6(n))
	added, err := n.AddAddresses(addrs("169.254.170.2", "fd00:ec2::254"))
	if err != nil || len(added) != 1 || added[0] != netip.MustParseAddr("169.254.170.2") {
		t.Errorf("AddAddresses = %v, %v, want the IPv4 address alone", added, err)
	}
	check(t, n.RemoveAddresses(addrs("169.254.170.2", "fd00:ec2::254")))
}
