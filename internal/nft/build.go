package nft

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"taskrole/internal/address"
)

// Names of sets and chains. An operator sees them in nft list ruleset.
const (
	setRefused  = "containers"  // cgroups that are containers
	setExcepted = "excepted"    // cgroups that keep access
	setSources4 = "sources4"    // who asked: addresses, from other namespaces
	setSources6 = "sources6"    // the same
	setSockets  = "sockets"     // who asked: cgroups, on the host's own network
	chainFrom4  = "from-ipv4"   // packets to the service that came in from somewhere
	chainFrom6  = "from-ipv6"   // the same
	chainHost   = "from-socket" // packets to it that a socket of this namespace sends
)

// deepest is how far below the root a container's cgroup may be. The deepest known are those of rootless Podman, 6.
const deepest = 10

// most bounds the sets of who asked: a container can make up source addresses. A full set only stops the naming.
const most = 4096

// forget is how long somebody who does not ask again is remembered.
const forget = time.Hour

// Where addresses are in the headers (RFC 791, RFC 8200).
const (
	source4, destination4, length4 = 12, 16, 4
	source6, destination6, length6 = 8, 24, 16
)

func cgroupSet(t *nftables.Table, name string) *nftables.Set {
	// The order of bytes is for nft, which then shows a cgroup by its path.
	return &nftables.Set{Table: t, Name: name, KeyType: nftables.TypeCGroupV2, KeyByteOrder: binaryutil.NativeEndian}
}

func refusedSet(t *nftables.Table) *nftables.Set  { return cgroupSet(t, setRefused) }
func exceptedSet(t *nftables.Table) *nftables.Set { return cgroupSet(t, setExcepted) }

func seenSet(t *nftables.Table, name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: t, Name: name, KeyType: key, Dynamic: true, HasTimeout: true, Timeout: forget, Size: most}
}

func sources4(t *nftables.Table) *nftables.Set {
	return seenSet(t, setSources4, nftables.TypeIPAddr)
}

func sources6(t *nftables.Table) *nftables.Set {
	return seenSet(t, setSources6, nftables.TypeIP6Addr)
}

func sockets(t *nftables.Table) *nftables.Set {
	s := seenSet(t, setSockets, nftables.TypeCGroupV2)
	s.KeyByteOrder = binaryutil.NativeEndian
	return s
}

// builder writes the chains of one transaction.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	rules Rules
}

// build writes everything:
//
//	prerouting, raw:  what did not come from the host itself, before anybody can change where it goes to
//	forward:          the same once more, for what was sent to another address and led there by a rule for DNAT
//	output, filter:   what sockets of the host's own namespace send, told apart by cgroup
//
// Raw frames have no chain of their own: what a container sends to the gateway, however it was made, passes
// prerouting.
func (b *builder) build(byCgroup bool, refused, excepted []nftables.SetElement) error {
	for _, s := range []*nftables.Set{sources4(b.table), sources6(b.table)} {
		if err := b.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	b.chain(chainFrom4, b.from(unix.NFPROTO_IPV4, source4, length4, setSources4))
	b.chain(chainFrom6, b.from(unix.NFPROTO_IPV6, source6, length6, setSources6))
	// What lo brings is from the host itself: a proxy for the service may listen there.
	lo := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, loopback)},
		accept(),
	}
	b.base("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, append([][]expr.Any{lo}, service(chainFrom4, chainFrom6)...))
	b.base("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, service(chainFrom4, chainFrom6))
	if !byCgroup {
		return nil
	}
	ids, not := refusedSet(b.table), exceptedSet(b.table)
	for _, s := range []*nftables.Set{ids, not, sockets(b.table)} {
		if err := b.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	if err := errors.Join(inParts(b.conn.SetAddElements, ids, refused), inParts(b.conn.SetAddElements, not, excepted)); err != nil {
		return err
	}
	b.chain(chainHost, b.fromSockets())
	b.base("output", nftables.ChainHookOutput, nftables.ChainPriorityFilter, service(chainHost, chainHost))
	return nil
}

// loopback is the index of lo in every network namespace.
const loopback = 1

func (b *builder) chain(name string, rules [][]expr.Any) {
	b.fill(&nftables.Chain{Name: name, Table: b.table}, rules)
}

func (b *builder) base(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules [][]expr.Any) {
	policy := nftables.ChainPolicyAccept
	b.fill(&nftables.Chain{Name: name, Table: b.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority, Policy: &policy}, rules)
}

func (b *builder) fill(c *nftables.Chain, rules [][]expr.Any) {
	b.conn.AddChain(c)
	for _, r := range rules {
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: r})
	}
}

func accept() expr.Any { return &expr.Verdict{Kind: expr.VerdictAccept} }

// verdict is how a packet to the service ends that nobody excepted.
func (b *builder) verdict() []expr.Any {
	if b.rules.Enforce {
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	}
	return []expr.Any{&expr.Counter{}, accept()}
}

// service sends packets to the metadata service to the chains for IPv4 and IPv6.
func service(chain4, chain6 string) [][]expr.Any {
	to := func(proto byte, offset uint32, a netip.Addr, chain string) []expr.Any {
		return append(family(proto),
			payload(offset, uint32(len(a.AsSlice()))), //nolint:gosec // 4 or 16
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain},
		)
	}
	return [][]expr.Any{
		to(unix.NFPROTO_IPV4, destination4, address.IMDS.Addr(), chain4),
		to(unix.NFPROTO_IPV6, destination6, address.IMDS6.Addr(), chain6),
	}
}

// family matches IPv4 or IPv6.
func family(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

func payload(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// note counts the key in register 1 in a set. A set that is full ends the rule, so nothing else may be in it.
func note(set string) expr.Any {
	return &expr.Dynset{SrcRegKey: 1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}
}

// from is for packets that came from elsewhere: exceptions, the note of who it was, the verdict.
func (b *builder) from(proto byte, offset, length uint32, set string) (rules [][]expr.Any) {
	source := func(then ...expr.Any) []expr.Any {
		return slices.Concat(family(proto), []expr.Any{payload(offset, length)}, then)
	}
	for _, p := range b.rules.Networks {
		address := p.Masked().Addr().AsSlice()
		if len(address) != int(length) {
			continue
		}
		rules = append(rules, source(
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, length)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address},
			accept(),
		))
	}
	return append(rules, source(note(set)), b.verdict())
}

// fromSockets is for packets of sockets in the host's own namespace. A cgroup is found at any depth by asking for the
// socket's ancestor at each. What is deepest is asked first, so that the one that is noted is the container and not
// the cgroup all containers are in.
func (b *builder) fromSockets() (rules [][]expr.Any) {
	at := func(level uint32, set string, then ...expr.Any) {
		rules = append(rules, append([]expr.Any{
			&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: level, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: set},
		}, then...))
	}
	for level := uint32(deepest); level > 0; level-- {
		at(level, setExcepted, accept())
	}
	for level := uint32(deepest); level > 0; level-- {
		at(level, setRefused, note(setSockets))
		at(level, setRefused, b.verdict()...)
	}
	return rules
}
