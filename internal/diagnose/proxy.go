package diagnose

import (
	"net/netip"
	"net/url"
	"strings"
)

// proxyFor is the variable with the proxy that a plain request to host goes through, or "". Loopback never does.
func (f *Facts) proxyFor(host string) string {
	if host == "localhost" {
		return ""
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		return ""
	}
	return f.proxyOf(host)
}

// proxyOf is the same for clients that send even what is for loopback to a proxy.
func (f *Facts) proxyOf(host string) string {
	for _, v := range []string{"http_proxy", "HTTP_PROXY"} {
		if f.has(v) && !f.excepted(host) {
			return v
		}
	}
	return ""
}

// excepted says whether NO_PROXY names the host literally: the one form that every client understands. Prefixes are
// known to Go alone.
func (f *Facts) excepted(host string) bool {
	for _, v := range []string{"no_proxy", "NO_PROXY"} {
		for word := range strings.SplitSeq(f.text(v), ",") {
			word = strings.Trim(strings.TrimSpace(word), "[]")
			if word == "*" || word == host {
				return true
			}
		}
	}
	return false
}

// hostOf is the host of a URL, or "".
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
