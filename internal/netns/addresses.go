package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the interface index of lo. The kernel gives every namespace's lo this number (LOOPBACK_IFINDEX), and
// unlike the name a container cannot give it to another device.
const loopback = 1

// label marks the IPv4 addresses that are ours, for people who look at them and for an agent that comes after a crash.
// (IPv6 addresses have no labels.)
const label = "lo:taskrole"

// AddAddresses puts addrs on the namespace's lo, as /32 and /128, and returns those that are ours: it was not there
// before, or has our label. It brings lo up. Another address that lo already has is left alone, and so is every loopback
// address. IPv6 addresses are
// left out where the namespace has no IPv6 or has disabled it. An address that another device holds is an error: the
// kernel would take packets for it as that device's, and package skl would refuse them. After an error none of them
// has been added.
//
// They must be on lo itself and not on a dummy device: for a packet that never leaves the namespace the kernel
// reports the device that holds the destination, which is how a neighbour's packets are told apart.
func (n *NS) AddAddresses(addrs []netip.Addr) ([]netip.Addr, error) {
	return Do(n, func() ([]netip.Addr, error) {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open route netlink: %w", err)
		}
		defer h.Close()
		if err := raiseLoopback(); err != nil {
			return nil, err
		}
		present, err := holders(h)
		if err != nil {
			return nil, err
		}
		var added []netip.Addr
		for _, a := range addrs {
			ok, err := addAddress(h, a, present)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("add %s to lo: %w", a, err), removeAddresses(h, added))
			}
			if ok {
				added = append(added, a)
			}
		}
		if err := awaitLocal(h, added); err != nil {
			return nil, errors.Join(err, removeAddresses(h, added))
		}
		return added, nil
	})
}

// RemoveAddresses takes addrs off lo. One that is not there is not an error.
func (n *NS) RemoveAddresses(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	return n.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open route netlink: %w", err)
		}
		defer h.Close()
		return removeAddresses(h, addrs)
	})
}

func addAddress(h *netlink.Handle, a netip.Addr, present map[netip.Addr]holder) (ours bool, err error) {
	if a.IsLoopback() {
		return false, nil
	}
	if on, ok := present[a]; ok {
		if on.device != loopback {
			return false, fmt.Errorf("device %d of the namespace has the address", on.device)
		}
		return on.label == label, nil
	}
	err = h.AddrAdd(nil, onLoopback(a))
	switch {
	case err == nil:
		present[a] = holder{loopback, label}
		return true, nil
	case errors.Is(err, unix.EEXIST): // somebody else was faster
		return false, nil
	case a.Is6() && isNoIPv6(err):
		return false, nil
	default:
		return false, err
	}
}

// patience is how long the kernel may take to make an address usable. It takes microseconds, or milliseconds on a
// host that has no time.
const patience = 5 * time.Second

// awaitLocal waits until packets for the IPv6 addresses go to lo. The kernel answers as soon as an address is noted
// and inserts its local route later, from a work queue; a connection made in between is lost, and the client tries
// again only after a second. (IPv4 addresses are complete at once.)
func awaitLocal(h *netlink.Handle, addrs []netip.Addr) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for _, a := range addrs {
		for a.Is6() && !isLocal(h, a) {
			select {
			case <-tick.C:
			case <-deadline.C:
				return fmt.Errorf("add %s to lo: the kernel has made no route to it within %s", a, patience)
			}
		}
	}
	return nil
}

func isLocal(h *netlink.Handle, a netip.Addr) bool {
	routes, err := h.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

func removeAddresses(h *netlink.Handle, addrs []netip.Addr) error {
	var errs []error
	for _, a := range addrs {
		err := h.AddrDel(nil, onLoopback(a))
		if errors.Is(err, unix.EADDRNOTAVAIL) || a.Is6() && isNoIPv6(err) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s from lo: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// onLoopback is a as an address of lo. Duplicate address detection would leave an IPv6 address unusable for a second,
// and on lo there is nobody to ask.
func onLoopback(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{
		IPNet:     &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		Scope:     unix.RT_SCOPE_HOST,
		LinkIndex: loopback,
	}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	} else {
		addr.Label = label
	}
	return addr
}

// isNoIPv6 recognises the kernel's answers about IPv6 addresses where there is no IPv6: EACCES with disable_ipv6=1 on
// the device, the others without the module.
func isNoIPv6(err error) bool {
	for _, errno := range []error{unix.EACCES, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// holder is where an address of the namespace is.
type holder struct {
	device int
	label  string
}

func holders(h *netlink.Handle) (map[netip.Addr]holder, error) {
	list, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	found := make(map[netip.Addr]holder, len(list))
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		if ip = ip.Unmap(); found[ip].device != loopback { // an address may be on several devices; lo counts
			found[ip] = holder{a.LinkIndex, a.Label}
		}
	}
	return found, nil
}

// look calls f with what the namespace has.
func (n *NS) look(f func(map[netip.Addr]holder) []netip.Addr) ([]netip.Addr, error) {
	return Do(n, func() ([]netip.Addr, error) {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open route netlink: %w", err)
		}
		defer h.Close()
		found, err := holders(h)
		if err != nil {
			return nil, err
		}
		return f(found), nil
	})
}

// Missing returns those of the addresses that are not on lo; of IPv6 ones only where the namespace has IPv6 on lo at all.
func (n *NS) Missing(addrs []netip.Addr) ([]netip.Addr, error) {
	return n.look(func(found map[netip.Addr]holder) []netip.Addr {
		no6 := found[netip.IPv6Loopback()].device != loopback
		return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
			return found[a].device == loopback || a.Is6() && no6
		})
	})
}

// Foreign returns those of the IPv4 addresses that somebody else has put into the namespace, on whichever device.
func (n *NS) Foreign(addrs []netip.Addr) ([]netip.Addr, error) {
	return n.look(func(found map[netip.Addr]holder) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
			on, there := found[a]
			return !there || a.Is6() || on == holder{loopback, label}
		})
	})
}

// raiseLoopback brings lo of the thread's namespace up. It is up already in what engines make; netlink would cost a
// socket and three messages more.
func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, request); err != nil {
		return fmt.Errorf("look at lo: %w", err)
	}
	flags := request.Uint16()
	if flags&unix.IFF_UP != 0 {
		return nil
	}
	request.SetUint16(flags | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
