package diagnose

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// SDK names a client's way of finding credentials.
type SDK string

// The SDKs whose chains are known.
const (
	Botocore SDK = "botocore" // boto3 and version 1 of the command line too
	CLIv2    SDK = "cli-v2"
	GoV2     SDK = "go-v2"
	GoV1     SDK = "go-v1"
	JSv3     SDK = "js-v3"
	JSv2     SDK = "js-v2"
	JavaV2   SDK = "java-v2"
	JavaV1   SDK = "java-v1"
	Rust     SDK = "rust"
	Ruby     SDK = "ruby"
	PHP      SDK = "php"
	DotNet   SDK = "dotnet"
	Cpp      SDK = "cpp"
	CRT      SDK = "crt"
)

// IMDSv1 is no SDK but any client that asks the instance's metadata without a token: a script with curl, a library of
// long ago. It is judged only where somebody names it.
const IMDSv1 SDK = "imdsv1-only"

// SDKs are all of them, in the order they are shown.
func SDKs() []SDK {
	return []SDK{Botocore, CLIv2, GoV2, GoV1, JSv3, JSv2, JavaV2, JavaV1, Rust, Ruby, PHP, DotNet, Cpp, CRT}
}

// legacy are those that get no features any more. What concerns only them is not worth a warning to everybody.
var legacy = []SDK{GoV1, JSv2, JavaV1}

// traits are what tells the chain of one SDK from the others' beside its order.
type traits struct {
	title string
	// aliases are further names of the key variables, besides AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
	aliases [][2]string
	// security: AWS_SECURITY_TOKEN counts, and before AWS_SESSION_TOKEN.
	security bool
	// partialStops: one key variable without the other ends the chain.
	partialStops bool
	// partialFileStops: a key id without a secret in a profile does.
	partialFileStops bool
	// expiry: AWS_CREDENTIAL_EXPIRATION counts, and keys that have ended are an error. refusesEnded: so they are where the
	// container endpoint serves them.
	expiry, refusesEnded bool
	// profiles are the variables that name a profile, the stronger first.
	profiles []string
	// missingStops: a profile that is named and does not exist ends the chain.
	missingStops bool
	// missingFirst: it does so before anything else is looked at.
	missingFirst bool
	// fullFirst: AWS_CONTAINER_CREDENTIALS_FULL_URI before the relative one.
	fullFirst bool
	// emptyCounts: a URI variable that is set but empty counts as set.
	emptyCounts bool
	// containerFalls: a container endpoint that fails is followed by IMDS.
	containerFalls bool
	// proxyContainer and proxyIMDS: HTTP_PROXY is used for them.
	proxyContainer, proxyIMDS bool
	// proxyLoopback: also for what is on loopback.
	proxyLoopback bool
	// loose: a document of the container endpoint needs no token and no end.
	loose bool
	// trims: a line break at the end of the authorization token's file does no harm.
	trims bool
	// ends5xx: an error of the metadata service at the token's request ends the step.
	ends5xx bool
	// noV1: speaks only version 2 of IMDS. onlyV1: only version 1.
	noV1, onlyV1 bool
	// regions are the variables of the region; imdsRegion: it is also asked of IMDS.
	regions    []string
	imdsRegion bool
	// hosts says whether a plain full URI may lead to this host.
	hosts func(host string) bool
	// disabled says whether AWS_EC2_METADATA_DISABLED with this value keeps it from IMDS.
	disabled func(value string) bool
	// identityStops: a web identity that cannot be used ends the chain; idNeedsRole: also one without a role's ARN.
	identityStops, idNeedsRole bool
	// nothing is what its user reads when no step has credentials.
	nothing string
	// noRegion is what its user reads when there is no region.
	noRegion string
}

var (
	awsRegion     = []string{"AWS_REGION"}
	bothRegions   = []string{"AWS_REGION", "AWS_DEFAULT_REGION"}
	defaultRegion = []string{"AWS_DEFAULT_REGION"}
	awsProfile    = []string{"AWS_PROFILE"}
)

var specs = map[SDK]traits{
	Botocore: {
		title: "boto3, botocore, AWS CLI v1", security: true, partialStops: true, profiles: []string{"AWS_DEFAULT_PROFILE", "AWS_PROFILE"},
		missingStops: true, missingFirst: true, partialFileStops: true, expiry: true, refusesEnded: true,
		emptyCounts: true, proxyIMDS: true, regions: defaultRegion, hosts: literalHosts(all), disabled: onlyTrue,
		identityStops: true, idNeedsRole: true,
		nothing:  "Unable to locate credentials",
		noRegion: "You must specify a region.",
	},
	CLIv2: {
		title: "AWS CLI v2", security: true, partialStops: true, profiles: []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"},
		missingStops: true, missingFirst: true, partialFileStops: true, expiry: true, refusesEnded: true,
		emptyCounts: true, proxyIMDS: true, regions: bothRegions, imdsRegion: true, hosts: literalHosts(all), disabled: onlyTrue,
		identityStops: true, idNeedsRole: true,
		nothing:  "Unable to locate credentials. You can configure credentials by running \"aws …\".", // configure, later login
		noRegion: "You must specify a region.",
	},
	GoV2: {
		title: "AWS SDK for Go v2", aliases: javaNames, profiles: []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}, missingStops: true,
		missingFirst: true, partialFileStops: true, loose: true, proxyContainer: true, proxyIMDS: true, regions: bothRegions, hosts: literalHosts(all), disabled: onlyTrue,
		identityStops: true, idNeedsRole: true,
		nothing:  "failed to refresh cached credentials, no EC2 IMDS role found",
		noRegion: "Invalid Configuration: Missing Region",
	},
	GoV1: {
		title: "AWS SDK for Go v1", aliases: javaNames, profiles: awsProfile, fullFirst: true, loose: true, proxyContainer: true, proxyIMDS: true,
		regions: awsRegion, hosts: literalHosts(all), disabled: onlyTrue, identityStops: true, idNeedsRole: true,
		nothing:  "NoCredentialProviders: no valid providers in chain",
		noRegion: "MissingRegion: could not find region configuration",
	},
	JSv3: {
		title: "AWS SDK for JavaScript v3", profiles: awsProfile, regions: awsRegion, imdsRegion: true, hosts: literalHosts(all), disabled: anyValue,
		identityStops: true, trims: true,
		nothing:  "CredentialsProviderError: Could not load credentials from any providers",
		noRegion: "Region is missing",
	},
	JSv2: {
		title: "AWS SDK for JavaScript v2", aliases: [][2]string{{"AMAZON_ACCESS_KEY_ID", "AMAZON_SECRET_ACCESS_KEY"}}, profiles: awsProfile,
		containerFalls: true, regions: awsRegion, hosts: literalHosts([]string{"localhost", "127.0.0.1", "169.254.170.23"}), disabled: notEmpty, ends5xx: true,
		nothing:  "Could not load credentials from any providers",
		noRegion: "ConfigError: Missing region in config",
	},
	JavaV2: {
		title: "AWS SDK for Java v2", profiles: awsProfile, containerFalls: true, loose: true, regions: awsRegion, imdsRegion: true,
		hosts: literalHosts(all), disabled: anyValue, // what is neither true nor false is an error
		nothing:  "Unable to load credentials from any of the providers in the chain AwsCredentialsProviderChain",
		noRegion: "Unable to load region from any of the providers in the chain",
	},
	JavaV1: {
		title: "AWS SDK for Java v1", aliases: javaNames, profiles: awsProfile, emptyCounts: true, loose: true, refusesEnded: true, ends5xx: true,
		regions: awsRegion, imdsRegion: true, hosts: literalHosts(all), disabled: onlyTrue,
		nothing:  "Unable to load AWS credentials from any provider in the chain",
		noRegion: "Unable to find a region via the region provider chain",
	},
	Rust: {
		title: "AWS SDK for Rust", aliases: [][2]string{{"AWS_ACCESS_KEY_ID", "SECRET_ACCESS_KEY"}}, profiles: awsProfile, noV1: true,
		partialFileStops: true, emptyCounts: true, proxyContainer: true, proxyIMDS: true, proxyLoopback: true,
		regions: bothRegions, imdsRegion: true, hosts: literalHosts(all), disabled: onlyTrue, identityStops: true,
		nothing:  "the credential provider was not enabled",
		noRegion: "A region must be set when sending requests",
	},
	Ruby: {
		title: "AWS SDK for Ruby v3", aliases: append(slices.Clone(javaNames), [2]string{"AMAZON_ACCESS_KEY_ID", "AMAZON_SECRET_ACCESS_KEY"}),
		profiles: []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}, emptyCounts: true, loose: true, trims: true, identityStops: true, proxyIMDS: true,
		regions: bothRegions, hosts: literalHosts(all), disabled: onlyTrue,
		nothing:  "unable to sign request without credentials set",
		noRegion: "Aws::Errors::MissingRegionError: missing keyword :region",
	},
	PHP: {
		title: "AWS SDK for PHP v3", profiles: awsProfile, ends5xx: true, proxyIMDS: true, regions: awsRegion, hosts: literalHosts(all), disabled: onlyTrue,
		nothing:  "Error retrieving credentials from the instance profile metadata service.",
		noRegion: "Missing required client configuration options: region",
	},
	DotNet: {
		title: "AWS SDK for .NET v4", aliases: [][2]string{{"AWS_ACCESS_KEY_ID", "AWS_SECRET_KEY"}}, profiles: awsProfile, missingStops: true,
		noV1: true, regions: awsRegion, imdsRegion: true, hosts: literalHosts(all), disabled: onlyTrue, identityStops: true,
		nothing:  "Failed to resolve AWS credentials. The credential providers used to search for credentials returned the following errors:",
		noRegion: "No RegionEndpoint or ServiceURL configured",
	},
	Cpp: {
		title: "AWS SDK for C++", profiles: []string{"AWS_DEFAULT_PROFILE", "AWS_PROFILE"}, regions: bothRegions, imdsRegion: true,
		hosts: literalHosts(all), disabled: onlyTrue,
		nothing: "Unable to sign request without credentials",
	},
	CRT: {
		title: "AWS Common Runtime", profiles: awsProfile, hosts: literalHosts(all),
		disabled: func(v string) bool { return v != "" && !strings.EqualFold(v, "false") },
		nothing:  "Valid credentials could not be sourced by the default chain",
	},
	IMDSv1: {
		title: "a client that speaks only IMDSv1", onlyV1: true,
		hosts: func(string) bool { return true }, disabled: func(string) bool { return false }, // it reads no variable at all
	},
}

// javaNames are what Java's first SDK called the variables, and others after it.
var javaNames = [][2]string{{"AWS_ACCESS_KEY", "AWS_SECRET_KEY"}}

// all are the hosts that a plain full URI may lead to in most SDKs, loopback aside.
var all = []string{"localhost", "127.0.0.1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"}

// literalHosts allows these names, and every loopback address where more than one of them is allowed anyway.
func literalHosts(names []string) func(string) bool {
	loopback := slices.Contains(names, "169.254.170.2")
	return func(host string) bool {
		if slices.Contains(names, strings.ToLower(host)) {
			return true
		}
		a, err := netip.ParseAddr(host)
		return err == nil && loopback && a.IsLoopback()
	}
}

func onlyTrue(v string) bool { return strings.EqualFold(v, "true") }

// anyValue: JavaScript's newer SDK takes every text but "false" for yes.
func anyValue(v string) bool { return v != "" && !strings.EqualFold(v, "false") }

func notEmpty(v string) bool { return v != "" }

// Title is the name in full.
func (s SDK) Title() string { return specs[s].title }

// Valid says whether the chain of s is known.
func (s SDK) Valid() bool { return s == IMDSv1 || slices.Contains(SDKs(), s) }

// refuses says what the user reads where the SDK does not ask a full URI, or "".
func (l look) refuses(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "https" || l.hosts(u.Hostname()) {
		return ""
	}
	return l.hostsSees(u.Hostname())
}
