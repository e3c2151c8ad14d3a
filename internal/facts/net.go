package facts

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"taskrole/internal/address"
	"taskrole/internal/diagnose"
)

// served are the addresses of the endpoints.
var served = []netip.Addr{address.ECS.Addr(), address.IMDS.Addr(), address.PodIdentity.Addr(), address.IMDS6.Addr(), address.PodIdentity6.Addr()}

// network reads what the kernel says of the process's namespace, without going there.
func (p *Process) network(ctx context.Context, f *diagnose.Facts) {
	routes, err := readSome(p.path("net/route"))
	if err != nil {
		p.blind("its routes", err)
		return
	}
	n := diagnose.Network{Known: true, Host: p.sharesHost()}
	n.Devices, n.Routed = routed(routes)
	trie, err := readSome(p.path("net/fib_trie"))
	if err != nil {
		p.blind("its addresses", err)
	}
	v6, err := readSome(p.path("net/if_inet6"))
	if err != nil {
		v6 = nil // the kernel has no IPv6
	}
	for _, a := range slices.Concat(addresses4(trie), addresses6(v6)) {
		switch {
		case slices.Contains(served, a):
			n.OnLo = append(n.OnLo, a.String())
		case !a.IsLoopback():
			n.Addresses = append(n.Addresses, a.String())
		}
	}
	if b, err := readSome(p.path("net/ipv6_route")); err == nil {
		var devices []string
		devices, n.Routed6 = routed6(b)
		for _, d := range devices {
			if !slices.Contains(n.Devices, d) {
				n.Devices = append(n.Devices, d)
			}
		}
	}
	n.IPv6 = p.hasIPv6(ctx)
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		if b, err := readSome(p.path(name)); err == nil {
			n.Port80 = n.Port80 || listens80(b)
		}
	}
	n.Resolver = f.Net.Resolver
	f.Net = n
}

// sharesHost says whether the process is in the network namespace of the host, that is, of process 1 or of ourselves.
func (p *Process) sharesHost() bool {
	own := p.link("ns/net")
	if own == "" {
		return false
	}
	for _, other := range []string{"/proc/1/ns/net", "/proc/self/ns/net"} {
		if o, err := os.Readlink(other); err == nil && o == own {
			return true
		}
	}
	return false
}

// routed reads /proc/net/route: the devices with a route, and whether one leads to IMDS.
func routed(b []byte) (devices []string, imds bool) {
	target := address.IMDS.Addr().As4()
	for line := range bytes.Lines(b) {
		const iface, destination, mask = 0, 1, 7
		w := strings.Fields(string(line))
		if len(w) <= mask || w[iface] == "Iface" {
			continue
		}
		d, ok1 := hex4(w[destination])
		m, ok2 := hex4(w[mask])
		if !ok1 || !ok2 {
			continue
		}
		if w[iface] != "lo" && !slices.Contains(devices, w[iface]) {
			devices = append(devices, w[iface])
		}
		imds = imds || binary.BigEndian.Uint32(target[:])&m == d
	}
	return devices, imds
}

// routed6 reads /proc/net/ipv6_route: the devices with a route, and whether one leads to IMDS.
func routed6(b []byte) (devices []string, imds bool) {
	const destination, length, flags, iface = 0, 1, 8, 9
	for line := range bytes.Lines(b) {
		w := strings.Fields(string(line))
		if len(w) <= iface || w[iface] == "lo" {
			continue
		}
		if !slices.Contains(devices, w[iface]) {
			devices = append(devices, w[iface])
		}
		raw, err1 := hex.DecodeString(w[destination])
		bits, err2 := strconv.ParseUint(w[length], 16, 8)
		set, err3 := strconv.ParseUint(w[flags], 16, 64)
		a, ok := netip.AddrFromSlice(raw)
		if err := errors.Join(err1, err2, err3); err != nil || !ok || set&unix.RTF_REJECT != 0 {
			continue
		}
		to := netip.PrefixFrom(a, int(bits))
		imds = imds || to.IsValid() && to.Contains(address.IMDS6.Addr())
	}
	return devices, imds
}

// hasIPv6 asks inside the namespace, as the kernel shows these settings to nobody else. What counts is lo, where the
// addresses of the endpoints are.
func (p *Process) hasIPv6(ctx context.Context) string {
	b, err := held(ctx, p, openLimit, func() ([]byte, error) {
		return inside(p, func() ([]byte, error) { return readSome("/proc/sys/net/ipv6/conf/lo/disable_ipv6") })
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return "its kernel has no IPv6"
	case err != nil:
		return "" // it may not be seen
	case strings.TrimSpace(string(b)) == "0":
		return diagnose.IPv6On
	}
	return "net.ipv6.conf.lo.disable_ipv6 is " + clean(strings.TrimSpace(string(b)), maxShown)
}

// hex4 is an IPv4 address as /proc/net has it: hexadecimal, in the host's order of bytes.
func hex4(s string) (uint32, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32([]byte{b[3], b[2], b[1], b[0]}), true //nolint:mnd // little endian, as every Linux we run on
}

// addresses4 reads /proc/net/fib_trie, where a line with an address is followed by what it is.
func addresses4(b []byte) []netip.Addr {
	var all []netip.Addr
	var last netip.Addr
	for line := range bytes.Lines(b) {
		s := strings.TrimSpace(string(line))
		if a, ok := strings.CutPrefix(s, "|-- "); ok {
			last, _ = netip.ParseAddr(a)
			continue
		}
		if strings.HasPrefix(s, "/32 host LOCAL") && last.IsValid() && !slices.Contains(all, last) {
			all = append(all, last)
		}
	}
	return all
}

func addresses6(b []byte) []netip.Addr {
	var all []netip.Addr
	for line := range bytes.Lines(b) {
		w := strings.Fields(string(line))
		if len(w) == 0 {
			continue
		}
		if raw, err := hex.DecodeString(w[0]); err == nil {
			if a, ok := netip.AddrFromSlice(raw); ok && !a.IsLinkLocalUnicast() {
				all = append(all, a)
			}
		}
	}
	return all
}

// listens80 says whether a socket in /proc/net/tcp listens on port 80 of every address.
func listens80(b []byte) bool {
	for line := range bytes.Lines(b) {
		const local, state = 1, 3
		w := strings.Fields(string(line))
		if len(w) > state && w[state] == "0A" && strings.HasSuffix(w[local], ":0050") && strings.Trim(w[local][:len(w[local])-5], "0") == "" {
			return true
		}
	}
	return false
}

func resolver(b []byte) string {
	for line := range bytes.Lines(b) {
		if w := strings.Fields(string(line)); len(w) > 1 && w[0] == "nameserver" {
			return clean(w[1], maxShown)
		}
	}
	return ""
}

// Host looks at the machine.
func Host() diagnose.Host {
	h := diagnose.Host{Looked: true, Root: os.Geteuid() == 0}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
		if before59(h.Kernel) {
			h.SkLookup = "Linux " + h.Kernel + " has no sk_lookup, which came with 5.9"
		}
	}
	h.Cgroup = "v1"
	for dir, name := range map[string]string{"/sys/fs/cgroup": "v2", "/sys/fs/cgroup/unified": "hybrid"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			h.Cgroup = name
		}
	}
	return h
}
