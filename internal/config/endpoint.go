package config

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Lengths are counted beside the expressions and not in them: a repetition with a bound is copied as often, and the
// agent, which reads its configuration once, would keep half a megabyte of that.
var labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

const maxLabel = 63 // RFC 1035

// isLabel says whether s can be a part of a host's name.
func isLabel(s string) bool { return len(s) <= maxLabel && labelRE.MatchString(s) }

// isHost says whether s can be a host's name, as far as its parts are concerned.
func isHost(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !isLabel(part) {
			return false
		}
	}
	return true
}

// endpoint returns s in its one form: lower case, without a path, a default port kept as it was given.
func endpoint(s string) (string, error) {
	bad := func(why string) (string, error) { return "", errors.New(quote(s) + " is not an endpoint: " + why) }
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return bad("it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("it begins with neither http:// nor https://")
	case u.User != nil:
		return bad("a user name and a password do not belong in here")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") || u.Opaque != "":
		return bad("something follows the host")
	}
	host := strings.ToLower(u.Hostname())
	if why := badHost(host); why != "" {
		return bad(why)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return bad("the port is not 1 to 65535")
		}
		host += ":" + port
	} else if strings.HasSuffix(u.Host, ":") {
		return bad("the port is missing")
	}
	return u.Scheme + "://" + host, nil
}

// badHost says what is wrong with a host, or "". The metadata services of clouds are link-local, and a proxy or an
// agent that asks there would hand out the host's own identity.
func badHost(host string) string {
	const longest = 253 // of a name in DNS
	if a, err := netip.ParseAddr(host); err == nil {
		switch a = unwrap(a); {
		case a.Zone() != "":
			return "an address with a zone is link-local"
		case a.IsLinkLocalUnicast() || netip.MustParsePrefix("fd00:ec2::/32").Contains(a):
			return "the address is link-local"
		case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return "the address is nobody's"
		}
		return ""
	}
	if len(host) > longest || !isHost(host) {
		return "the host is neither a name nor an address"
	}
	// 2852039166, 0xa9fea9fe and 169.254.43518 are addresses to a C library, and no name ends in a number.
	last := host[strings.LastIndexByte(host, '.')+1:]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "the host looks like an address and is none"
	}
	return ""
}

// unwrap returns the IPv4 address inside an IPv6 one: mapped (RFC 4291), by NAT64 (RFC 6052) or 6to4 (RFC 3056).
func unwrap(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:]))
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}
