package skl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in struct bpf_sk_lookup (include/uapi/linux/bpf.h).
const (
	offFamily    = 8
	offProtocol  = 12
	offLocalIP4  = 40 // network order
	offLocalIP6  = 44 // four words, network order
	offLocalPort = 60 // host order
	offIngress   = 64 // Linux 5.17; the verifier of older ones refuses a program that reads it
)

// What the program returns (enum sk_action).
const (
	skDrop = 0 // for TCP: the SYN is answered with a reset
	skPass = 1 // go on: to the socket the program has chosen, or as if there were no program
)

const (
	slot     = 0 // the listener's place in the map
	loopback = 1 // the interface index of lo in every namespace (LOOPBACK_IFINDEX)
)

// program compares protocol, address and port with dests; the first that is equal leads to the listener.
func program(sockets int, dests []netip.AddrPort, ingress bool) asm.Instructions {
	is := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, offProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(asm.R7, asm.R6, offFamily, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, offLocalPort, asm.Word),
	}
	for i, d := range dests {
		otherwise := "pass"
		if i+1 < len(dests) {
			otherwise = label(i + 1)
		}
		m := match(d, otherwise)
		m[0] = m[0].WithSymbol(label(i))
		is = append(is, m...)
	}
	return append(is, steer(sockets, ingress)...)
}

func label(i int) string { return fmt.Sprintf("dest%d", i) }

// match goes to "steer" if the packet is for d, else to otherwise.
func match(d netip.AddrPort, otherwise string) asm.Instructions {
	family, offset := int32(unix.AF_INET), int16(offLocalIP4)
	if d.Addr().Is6() {
		family, offset = unix.AF_INET6, offLocalIP6
	}
	is := asm.Instructions{
		asm.JNE.Imm(asm.R8, int32(d.Port()), otherwise),
		asm.JNE.Imm(asm.R7, family, otherwise),
	}
	for b := d.Addr().AsSlice(); len(b) > 0; b, offset = b[4:], offset+4 {
		word := int32(binary.NativeEndian.Uint32(b)) //nolint:gosec // the same 32 bits: the instruction's constant is signed
		is = append(is,
			asm.LoadMem(asm.R2, asm.R6, offset, asm.Word),
			asm.JNE.Imm32(asm.R2, word, otherwise))
	}
	return append(is, asm.Ja.Label("steer"))
}

// steer gives the packet to the listener. Everything that hinders it ends in a drop: with a pass, whoever listens on
// all addresses in the container would get a request that was meant for us.
func steer(sockets int, ingress bool) asm.Instructions {
	is := asm.Instructions{asm.Mov.Imm(asm.R0, skDrop).WithSymbol("steer")}
	if ingress {
		is = append(is,
			asm.LoadMem(asm.R2, asm.R6, offIngress, asm.Word),
			asm.JNE.Imm(asm.R2, loopback, "drop"))
	}
	return append(
		is,
		asm.LoadMapPtr(asm.R1, sockets),
		asm.StoreImm(asm.R10, -4, slot, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"), // the listener has been closed
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.JNE.Imm(asm.R8, 0, "drop"), // such as an IPv4 listener for an IPv6 packet
		asm.Mov.Imm(asm.R0, skPass).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, skDrop).WithSymbol("drop"),
		asm.Return(),
	)
}
