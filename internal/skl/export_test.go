package skl

import (
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// AttachWithoutIngress is Attach as on a kernel that refuses the ingress check.
func AttachWithoutIngress(nsFD int, l *net.TCPListener, dests []netip.AddrPort) (*Steering, error) {
	sockets, err := newMap(l)
	if err != nil {
		return nil, err
	}
	defer sockets.Close()
	p, err := load(sockets, dests, false)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	lk, err := link.AttachNetNs(nsFD, p)
	if err != nil {
		return nil, err
	}
	return &Steering{lk, false}, nil
}

// LoadReading loads a program that reads the word at offset of its context.
func LoadReading(offset int16) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, offset, asm.Word),
			asm.Mov.Imm(asm.R0, skPass),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	return p.Close()
}

// Unexported names the tests speak of.
var (
	RefusesField = refusesField
	Unsupported  = unsupported
)

// OffIngress is the field the fallback is about.
const OffIngress = offIngress
