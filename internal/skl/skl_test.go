package skl_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taskrole/internal/netns"
	"taskrole/internal/skl"
	"taskrole/internal/testkit"
)

func TestAttachSteersEveryDestinationAndNothingElse(t *testing.T) {
	n := container(t)
	s := attach(t, n, listen(t, n, "taskrole"))
	if !s.ChecksIngress() {
		t.Log("this kernel does not tell the ingress device")
	}
	for _, d := range dests {
		if got := get(t, n, d.String()); got != "taskrole" {
			t.Errorf("%s: %q, want our greeting", d, got)
		}
	}
	bound := func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo") }
	if got := get(t, n, ecs4, bound); got != "taskrole" {
		t.Errorf("a client bound to lo: %q", got)
	}
	if got := get(t, n, "[::ffff:169.254.170.2]:80"); got != "taskrole" {
		t.Errorf("a mapped address: %q", got)
	}
	for _, other := range []string{"127.0.0.1:80", "169.254.170.2:81", "[::1]:80", "127.0.0.2:61170", "[::1]:61170"} {
		if got := get(t, n, other); got != refused {
			t.Errorf("%s, which nobody serves: %q", other, got)
		}
	}
}

func TestAttachServesIPv4WhereIPv6IsDisabled(t *testing.T) {
	n := container(t)
	check(t, in(n, func() error {
		return errors.Join(
			write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
			write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))
	}))
	attach(t, n, listen(t, n, "taskrole"))
	if got := get(t, n, ecs4); got != "taskrole" {
		t.Errorf("IPv4: %q", got)
	}
}

func TestAttachAnswersFromIPv4ListenerAndRefusesIPv6(t *testing.T) {
	n := container(t)
	l, err := n.ListenAt(netip.MustParseAddrPort("127.0.0.1:1"))
	check(t, err)
	greet(t, l, "taskrole")
	attach(t, n, l)
	if got := get(t, n, ecs4); got != "taskrole" {
		t.Errorf("IPv4: %q", got)
	}
	if got := get(t, n, imds6); got != refused {
		t.Errorf("IPv6 with an IPv4 listener: %q", got)
	}
}

func TestAttachChecksDestinations(t *testing.T) {
	many := make([]netip.AddrPort, 65)
	for i := range many {
		many[i] = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1))
	}
	for name, dests := range map[string][]netip.AddrPort{
		"none":        nil,
		"too many":    many,
		"zero":        {{}},
		"port 0":      {netip.MustParseAddrPort("169.254.170.2:0")},
		"any address": {netip.MustParseAddrPort("[::]:80")},
		"zone":        {netip.MustParseAddrPort("[fe80::1%lo]:80")},
		"mapped any":  {netip.MustParseAddrPort("[::ffff:0.0.0.0]:80")},
	} {
		if s, err := skl.Attach(-1, nil, dests); s != nil || err == nil {
			t.Errorf("%s: attached", name)
		}
	}
}

func TestAttachTakesAsManyDestinationsAsItSays(t *testing.T) {
	n := container(t)
	l := listen(t, n, "taskrole")
	var many []netip.AddrPort
	for i := range 64 {
		a := netip.MustParseAddr("127.0.0.1")
		if i%2 == 1 {
			a = netip.IPv6Loopback()
		}
		many = append(many, netip.AddrPortFrom(a, uint16(1000+i)))
	}
	s, err := skl.Attach(n.FD(), l, many)
	check(t, err)
	defer s.Close()
	for _, d := range []netip.AddrPort{many[0], many[1], many[62], many[63]} {
		if got := get(t, n, d.String()); got != "taskrole" {
			t.Errorf("%s: %q", d, got)
		}
	}
}

func TestAttachToWhatIsNoNamespaceIsAnError(t *testing.T) {
	n := container(t)
	l := listen(t, n, "taskrole")
	if s, err := skl.Attach(0, l, dests); s != nil || err == nil {
		t.Error("attached to standard input")
	}
	check(t, l.Close())
	if s, err := skl.Attach(n.FD(), l, dests); s != nil || err == nil {
		t.Error("attached with a closed listener")
	}
}

func TestFallbackIsOnlyForTheFieldTheKernelDoesNotKnow(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.SkLookup)
	const beyond = 4096 // no kernel's context is so large
	err := skl.LoadReading(beyond)
	if err == nil {
		t.Fatal("the verifier let a program read beyond its context")
	}
	if !skl.RefusesField(err, beyond) {
		t.Errorf("not recognised: %v", err)
	}
	if skl.RefusesField(err, skl.OffIngress) || skl.RefusesField(unix.EPERM, skl.OffIngress) {
		t.Error("any refusal costs us the ingress check")
	}
}

func TestFallbackStillServes(t *testing.T) {
	n := container(t)
	s, err := skl.AttachWithoutIngress(n.FD(), listen(t, n, "taskrole"), dests)
	check(t, err)
	defer s.Close()
	for _, d := range dests {
		if got := get(t, n, d.String()); got != "taskrole" {
			t.Errorf("%s: %q", d, got)
		}
	}
	if s.ChecksIngress() {
		t.Error("ChecksIngress() = true for a program that does not")
	}
}

func TestUnsupportedNamesTheMinimumKernel(t *testing.T) {
	err := skl.Unsupported("sk_lookup", unix.EINVAL, ebpf.ErrNotSupported)
	if !errors.Is(err, skl.ErrNotSupported) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v matches neither ErrNotSupported nor its cause", err)
	}
	if got, want := err.Error(), "sk_lookup needs Linux 5.9 or later: invalid argument"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if err := skl.Unsupported("sk_lookup", unix.EPERM, nil); errors.Is(err, skl.ErrNotSupported) {
		t.Error("a missing permission counts as an old kernel")
	}
}

// TestSteeringDoesNotKeepTheNamespace has a veth as witness: its end here goes when the namespace there does.
func TestSteeringDoesNotKeepTheNamespace(t *testing.T) {
	for _, tt := range []struct {
		name         string
		keepListener bool
	}{
		{"listener closed, program attached", false},
		{"listener open", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := container(t)
			witness, err := netns.New()
			check(t, err)
			defer witness.Close()
			check(t, in(witness, func() error {
				return netlink.LinkAdd(&netlink.Veth{
					LinkAttrs: netlink.LinkAttrs{Name: "witness"},
					PeerName:  "peer", PeerNamespace: netlink.NsFd(n.FD()),
				})
			}))
			l := listen(t, n, "taskrole")
			attach(t, n, l)
			check(t, n.Close())
			if tt.keepListener {
				if gone(t, witness, 200*time.Millisecond) {
					t.Error("the namespace went with its listener open")
				}
				check(t, l.Close())
			} else {
				check(t, l.Close())
			}
			if !gone(t, witness, 10*time.Second) {
				t.Error("the namespace is still there")
			}
		})
	}
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0) }

// gone waits for the witness to disappear.
func gone(t *testing.T, witness *netns.NS, within time.Duration) bool {
	t.Helper()
	deadline := time.After(within)
	for {
		names, err := netns.Do(witness, net.Interfaces)
		check(t, err)
		if !slices.ContainsFunc(names, func(i net.Interface) bool { return i.Name == "witness" }) {
			return true
		}
		select {
		case <-deadline:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// BenchmarkContainer is what one container costs us, in a namespace made beforehand: addresses, listener, program.
func BenchmarkContainer(b *testing.B) {
	testkit.Need(b, testkit.Root, testkit.NetNS, testkit.SkLookup)
	for b.Loop() {
		b.StopTimer()
		n, err := netns.New()
		check(b, err)
		b.StartTimer()
		_, err = n.AddAddresses([]netip.Addr{dests[0].Addr(), dests[1].Addr()})
		check(b, err)
		l, err := n.Listen()
		check(b, err)
		s, err := skl.Attach(n.FD(), l, dests)
		check(b, err)
		b.StopTimer()
		check(b, errors.Join(s.Close(), l.Close(), n.Close()))
		b.StartTimer()
	}
}

func BenchmarkAttach(b *testing.B) {
	n := container(b)
	l, err := n.Listen()
	check(b, err)
	defer l.Close()
	for b.Loop() {
		s, err := skl.Attach(n.FD(), l, dests)
		check(b, err)
		check(b, s.Close())
	}
}
