//go:build integration

package integration

import (
	"io"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/netns"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// fakeIMDS answers a token's request with one status and the listing with another.
func fakeIMDS(token, listing int, date time.Duration) map[netip.AddrPort]http.HandlerFunc {
	return map[netip.AddrPort]http.HandlerFunc{address.IMDS: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(date).UTC().Format(http.TimeFormat))
		if r.Method == http.MethodPut {
			w.WriteHeader(token)
			io.WriteString(w, "token")
			return
		}
		w.WriteHeader(listing)
		io.WriteString(w, "somebody")
	}}
}

func metadata() []injected {
	none := ec2.Container{Network: ec2.NetworkNone}
	hops := func(required bool) func(*testing.T, *world, string) func() {
		return func(t *testing.T, w *world, _ string) func() {
			w.cloud.SetTokensRequired(required)
			check(t, w.cloud.SetHopLimit(1))
			return func() { w.cloud.SetTokensRequired(false); check(t, w.cloud.SetHopLimit(2)) }
		}
	}
	return []injected{
		{name: "no network", want: "imds-unreachable", show: true, c: none, evidence: "--network none"},
		{name: "internal network", want: "imds-unreachable", c: ec2.Container{Network: "doctor-internal"}},
		{
			name: "firewall", want: "imds-unreachable", once: true, c: with(), evidence: "packets are lost on the way",
			during: func(t *testing.T, w *world, id string) func() { return w.lose(t, id, address.IMDS.Addr()) },
		},
		{name: "host's role", want: "host-role", c: with(), source: "instance metadata"},
		{name: "host's role, host network", want: "host-role", once: true, c: ec2.Container{Network: ec2.NetworkHost}, source: "instance metadata"},
		{
			name: "IPv6 switched off", want: "ipv6-off", once: true, evidence: "disable_ipv6 is 1",
			c: ec2.Container{Env: []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}, Options: []string{"--sysctl=net.ipv6.conf.all.disable_ipv6=1"}},
		},
		{name: "hop limit", want: "imds-hop-limit", once: true, c: with(), during: hops(true)},
		{name: "hop limit, IMDSv1", want: "imds-hop-limit imds-v1-fallback", once: true, c: with(), during: hops(false), source: "instance metadata"},
		{name: "token refused", want: "imds-v2-required", once: true, c: none, serve: fakeIMDS(405, 401, 0)},
		{name: "token's request is wrong", want: "no-credentials", once: true, c: none, serve: fakeIMDS(400, 200, 0), evidence: "a 400 ends it"},
		{name: "clock", want: "clock-skew host-role", once: true, c: with(), during: skewed, evidence: "behind the metadata service's"},
		{
			name: "instance without a role", want: "imds-no-role", once: true, c: with(),
			during: func(_ *testing.T, w *world, _ string) func() {
				w.cloud.SetInstanceProfile(false)
				return func() { w.cloud.SetInstanceProfile(true) }
			},
		},
		{
			name: "IMDS switched off", want: "imds-off", once: true, c: with(),
			during: func(_ *testing.T, w *world, _ string) func() {
				w.cloud.SetMetadataEnabled(false)
				return func() { w.cloud.SetMetadataEnabled(true) }
			},
		},
		{
			name: "guard", want: "imds-guarded", once: true, c: with(),
			during: func(t *testing.T, w *world, _ string) func() {
				w.guard(t, "enforce")
				return func() { w.guard(t, `"off"`) }
			},
		},
		{
			name: "IMDS throttled", want: "imds-throttled", once: true, c: with(),
			during: func(t *testing.T, w *world, _ string) func() {
				check(t, w.cloud.SetFault(cloud.Fault{Service: "imds", Kind: cloud.Throttle}))
				return func() { w.cloud.ClearFaults("imds") }
			},
		},
	}
}

func roles() []injected {
	return []injected{
		{
			name: "agent dead", want: "agent-down", c: ec2.Container{Role: "reader"},
			during: func(t *testing.T, w *world, _ string) func() {
				check(t, w.stopAgent(os.Kill))
				return func() { check(t, w.startAgent(t.Context())) }
			},
		},
		{name: "variable without the runtime", want: "role-not-attached", c: with("TASKROLE=reader")},
		{
			name: "addresses taken away", want: "addresses-missing", c: ec2.Container{Role: "reader"}, evidence: "169.254.170.2 is not on a device",
			during: func(t *testing.T, w *world, id string) func() {
				w.inside(t, id, func(n *netns.NS) error { return n.RemoveAddresses([]netip.Addr{address.ECS.Addr()}) })
				return func() {}
			},
		},
		{
			name: "program taken away", want: "addresses-missing", once: true, c: ec2.Container{Role: "reader"}, evidence: "the steering program",
			during: func(t *testing.T, w *world, id string) func() { w.unsteer(t, id); return func() {} },
		},
		{
			name: "something else answers for the role", want: "endpoint-foreign", once: true, c: ec2.Container{Role: "reader", Network: ec2.NetworkNone},
			during: func(t *testing.T, w *world, id string) func() {
				other := netip.MustParseAddrPort("127.0.0.1:8181")
				w.serveInside(t, id, other, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
				w.redirect(t, id, address.ECS, other)
				return func() {}
			},
		},
		{
			name: "a network with another role", want: "start-refused", once: true, evidence: "namespace-shared",
			c: ec2.Container{Role: "reader", Network: "container:doctor-writer"},
			before: func(t *testing.T, w *world) func() {
				w.live(t, ec2.Container{Role: "writer", Name: "doctor-writer", Network: ec2.NetworkNone})
				return func() {}
			},
		},
		{name: "policy says no", want: "role-refused", c: ec2.Container{Role: "keeper"}, evidence: "rule 1: no match"},
		{name: "STS says no", want: "sts-refused", c: ec2.Container{Role: "untrusted"}, evidence: "sts:AssumeRole"},
	}
}

// skewed puts the whole cloud 20 minutes ahead of the host.
func skewed(_ *testing.T, w *world, _ string) func() {
	w.ahead.Store(int64(20 * time.Minute))
	return func() { w.ahead.Store(0) }
}

// pairs are two causes at once: the deeper one is named first, and nothing that is not so.
func pairs() []injected {
	hops := func(t *testing.T, w *world, _ string) func() {
		w.cloud.SetTokensRequired(true)
		check(t, w.cloud.SetHopLimit(1))
		return func() { w.cloud.SetTokensRequired(false); check(t, w.cloud.SetHopLimit(2)) }
	}
	dead := func(t *testing.T, w *world, _ string) func() {
		check(t, w.stopAgent(os.Kill))
		return func() { check(t, w.startAgent(t.Context())) }
	}
	return []injected{
		// The keys win in every SDK: the hop limit matters to nobody, and saying so would be noise.
		{name: "token forgotten and hop limit", want: "session-token-missing", c: with(session[:2]...), during: hops},
		{name: "half a key and hop limit", want: "credentials-partial imds-hop-limit", c: with(session[:1]...), during: hops},
		{name: "proxy and no such profile", want: "profile-missing proxy-takes-metadata", c: with("HTTP_PROXY=http://10.99.0.1:3128", "AWS_PROFILE=nope")},
		{name: "agent dead, keys all the same", want: "agent-down keys-shadow-role", c: ec2.Container{Role: "reader", Env: session}, during: dead},
		{name: "no network and no such profile", want: "profile-missing imds-unreachable", c: ec2.Container{Network: ec2.NetworkNone, Env: []string{"AWS_PROFILE=nope"}}},
		{name: "no network and no region", want: "imds-unreachable", plain: true, c: ec2.Container{Network: ec2.NetworkNone}},
		{name: "long-lived keys over the role", want: "keys-shadow-role keys-long-lived", c: ec2.Container{Role: "reader", Env: []string{"AWS_ACCESS_KEY_ID=" + theAKIA, session[1]}}},
		{name: "IMDS disabled and throttled", want: "imds-disabled", c: with("AWS_EC2_METADATA_DISABLED=true"), during: func(t *testing.T, w *world, _ string) func() {
			check(t, w.cloud.SetFault(cloud.Fault{Service: "imds", Kind: cloud.Throttle}))
			return func() { w.cloud.ClearFaults("imds") }
		}},
	}
}

func (w *world) twoCauses(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	w.prepare(t)
	w.try(t, all, pairs())
}

func (w *world) identityReasons(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	w.try(t, all, identities())
}

// identities are what keeps the agent from asking, or STS from answering.
func identities() []injected {
	expired := func(t *testing.T, w *world) func() {
		w.restart(t)                                                       // nothing is held
		w.live(t, ec2.Container{Role: "reader", Network: ec2.NetworkNone}) // the agent has its own now
		w.cloud.ExpireAll()                                                // the agent's SDK holds its own until they end
		return func() { w.restart(t) }
	}
	profile := func(t *testing.T, w *world) func() {
		w.cloud.SetInstanceProfile(false)
		w.restart(t)
		return func() { w.cloud.SetInstanceProfile(true); w.restart(t) }
	}
	fault := func(k cloud.Kind) func(*testing.T, *world) func() {
		return func(t *testing.T, w *world) func() {
			check(t, w.cloud.SetFault(cloud.Fault{Service: "sts", Kind: k}))
			w.restart(t)
			return func() { w.cloud.ClearFaults("sts"); w.restart(t) }
		}
	}
	reader := ec2.Container{Role: "reader", Network: ec2.NetworkNone}
	return []injected{
		{name: "host's session over", want: "host-identity-missing", once: true, c: ec2.Container{Role: "writer", Network: ec2.NetworkNone}, before: expired, evidence: "have expired"},
		{name: "host without an identity", want: "host-identity-missing", once: true, c: reader, before: profile, evidence: "has no AWS credentials"},
		{name: "STS is away", want: "sts-unreachable", once: true, c: reader, before: fault(cloud.Outage)},
		{name: "STS is throttling", want: "sts-unreachable", once: true, c: reader, before: fault(cloud.Throttle), evidence: "asks it too often"},
	}
}
