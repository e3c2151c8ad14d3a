package diagnose

import "strings"

// IPv6On is how Network.IPv6 says that the namespace has IPv6.
const IPv6On = "on"

// overIPv6 says that an answer is of, or was wanted from, an IPv6 address.
func (a Answer) overIPv6() bool { return strings.Contains(hostOf(a.URL), ":") }

// failed says that nobody answered.
func (a Answer) failed() bool { return a.Outcome != NotAsked && a.Outcome != Answered }

// ipv6Off: the environment leads to an IPv6 address, and the namespace has no IPv6. Docker before 26 switches it off
// where a container has no IPv6 address, on lo too.
func ipv6Off(f *Facts) *Finding {
	if f.Net.IPv6 == "" || f.Net.IPv6 == IPv6On {
		return nil
	}
	var x *Finding
	switch {
	case f.Container.overIPv6() && f.Container.failed() && !f.pair():
		x = &Finding{
			What:     "the container endpoint is wanted over IPv6, which is off in the container's network",
			Evidence: []string{"environment: " + envFull + "=" + f.text(envFull), f.Container.says()},
			Affects:  which(f, func(l look) bool { return reaches(f, l.sdk, inContain.name) }),
			Commands: []string{"export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials"},
		}
	case f.IMDS.Token.overIPv6() && f.IMDS.Token.failed() && (f.ours() || len(f.Net.Devices) > 0):
		x = &Finding{
			What:     "the metadata service is wanted over IPv6, which is off in the container's network",
			Evidence: []string{f.metadataVariable(), f.IMDS.Token.says()},
			Affects:  leftAtIMDS(f),
			Commands: []string{"unset AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE AWS_EC2_METADATA_SERVICE_ENDPOINT"},
		}
	}
	if x == nil || len(x.Affects) == 0 {
		return nil
	}
	x.Severity, x.Evidence = Error, append(x.Evidence, "the namespace: "+f.Net.IPv6)
	x.Fix = "ask over IPv4, which is served in any network, or switch IPv6 on when the container is made"
	x.Commands = append(x.Commands, f.run("--sysctl net.ipv6.conf.all.disable_ipv6=0"))
	return x
}

// metadataVariable is the variable that says where the metadata service is asked, with its value.
func (f *Facts) metadataVariable() string {
	for _, v := range []string{envEndpoint, envMode} {
		if f.has(v) {
			return "environment: " + v + "=" + f.text(v)
		}
	}
	return "environment: neither " + envEndpoint + " nor " + envMode + " is set"
}

// metadataHost is where the metadata service is asked.
func (f *Facts) metadataHost() string {
	if host := hostOf(f.IMDS.Token.URL); host != "" {
		return host
	}
	return "169.254.169.254"
}

// metadataRouted says whether a route leads there.
func (f *Facts) metadataRouted() bool {
	if strings.Contains(f.metadataHost(), ":") {
		return f.Net.Routed6
	}
	return f.Net.Routed
}
