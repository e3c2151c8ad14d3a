// Package address names the addresses a container with a task role finds in its own network namespace, and the
// path its credentials are at.
//
// It is one place because three programs must agree on them: the agent listens there, the environment that CDI or
// the runtime shim injects points there, and the tests dial there.
package address

import "net/netip"

// Where each dialect is served. All are on the container's own lo; none of them leaves the namespace.
var (
	// ECS is the container credentials endpoint, which every SDK since 2016 asks when
	// AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set.
	ECS = netip.MustParseAddrPort("169.254.170.2:80")
	// IMDS and IMDS6 are the EC2 instance metadata service, which SDKs ask without any environment.
	IMDS  = netip.MustParseAddrPort("169.254.169.254:80")
	IMDS6 = netip.MustParseAddrPort("[fd00:ec2::254]:80")
	// PodIdentity and PodIdentity6 are the EKS Pod Identity agent, which SDKs ask when
	// AWS_CONTAINER_CREDENTIALS_FULL_URI names it.
	PodIdentity  = netip.MustParseAddrPort("169.254.170.23:80")
	PodIdentity6 = netip.MustParseAddrPort("[fd00:ec2::23]:80")
	// FullURI serves what PodIdentity serves, on the loopback address that also old SDKs take in a full URI. Its port is
	// chosen as that of Proxy.
	FullURI = netip.MustParseAddrPort("127.0.0.1:61171")
	// Proxy is the egress proxy of roles that have one: above the kernel's default range of ephemeral ports
	// (32768 to 60999), so that no client socket holds it by chance.
	Proxy = netip.MustParseAddrPort("127.0.0.1:61170")
)

// credentialsPrefix is the path of the ECS task metadata endpoint, version 2.
const credentialsPrefix = "/v2/credentials/"

// PodIdentityPath is where the EKS Pod Identity agent and its likes have the credentials.
const PodIdentityPath = "/v1/credentials"

// CredentialsPath is the value of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI for a container of the named role. The name
// in it is for people: who may have which credentials is decided by the namespace, never by the path.
func CredentialsPath(role string) string { return credentialsPrefix + role }

// TaskMetadata returns the values of ECS_CONTAINER_METADATA_URI_V4 and ECS_CONTAINER_METADATA_URI for a container of the
// named role. The name is for people here too.
func TaskMetadata(role string) (v4, v3 string) {
	host := "http://" + ECS.Addr().String()
	return host + "/v4/" + role, host + "/v3/" + role
}

// IsCredentialsPath says whether path is one that the container credentials endpoint answers.
func IsCredentialsPath(path string) bool {
	return len(path) > len(credentialsPrefix) && path[:len(credentialsPrefix)] == credentialsPrefix
}
