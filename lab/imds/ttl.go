package imds

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setTTL sets the time-to-live of what the kernel sends on c from now on: IP_TTL for IPv4, which also counts on an
// IPv6 socket whose peer has an IPv4 address, and IPV6_UNICAST_HOPS for IPv6, which an IPv4 socket refuses.
func setTTL(c net.Conn, n int) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return errors.New("the connection is no socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var v4, v6 error
	err = raw.Control(func(fd uintptr) {
		v4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, n)
		v6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n)
	})
	if err != nil {
		return err
	}
	if v4 != nil && v6 != nil {
		return fmt.Errorf("set time-to-live: %w", errors.Join(v4, v6))
	}
	return nil
}
