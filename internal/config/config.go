// Package config reads the agent's configuration: one YAML file, written by the administrator.
//
// It is strict, because the file decides who holds which role: an unknown or doubled key, a value of the wrong kind,
// an anchor or a second document is a problem, and every problem is reported at once with its place and with what is
// allowed there. It refuses to decode into Go types, which loses places and turns 012345678901 into another number;
// it walks the nodes of the document instead. Defaults are set in one function. The package opens no sockets and
// asks nobody: whether a role exists at AWS is not its business.
package config

import (
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/instance"
	"taskrole/internal/policy"
)

// Config is a configuration without problems.
type Config struct {
	Path    string        // the file it was read from, for messages
	Account arn.AccountID // account of roles that give no arn; "" where every role gives one
	Region  string        // of STS, and of roles that name none; "" leaves it to the host's own AWS settings
	Socket  string        // control socket, absolute
	Runtime string        // path of taskrole-runtime; "": the agent looks beside itself
	Docker  string        // Docker's API as unix:///path; "" for none
	Podman  string        // Podman's likewise
	// NoPodman says that the file says none, and not only nothing.
	NoPodman bool
	Late     bool // containers may ask by label, which needs Docker
	CDI      CDI
	STS      STS
	// Metadata is what containers' instance metadata tells where the host's own service does not.
	Metadata instance.Facts
	// AskHost allows the agent to ask the host's own instance metadata service.
	AskHost bool
	Guard   Guard
	Roles   []Role // sorted by name, at least one
}

// CDI is where the agent writes the device specification that engines read.
type CDI struct {
	Dir string // absolute
}

// STS is how the agent asks for credentials.
type STS struct {
	Endpoint       string  // http(s)://host[:port]; "" is AWS's own
	CallsPerSecond float64 // most calls a second, over all roles
}

// Role is one role that containers may hold.
type Role struct {
	Name       string // as containers name it, and the CDI device
	ARN        arn.Role
	Session    string        // template of the session name: text with {id} {name} {role} {host}
	Duration   time.Duration // of a session, 15 min to 12 h
	Region     string        // given to the container as AWS_REGION; "" gives none
	ExternalID string
	Policy     string            // session policy, JSON without spaces, or ""
	Tags       map[string]string // session tags, or nil
	IMDS       IMDSMode
	Inject     Injection
	// TaskMetadata says that the role's containers are told about themselves as on ECS.
	TaskMetadata bool
	// AWSLogs lets Docker's log driver awslogs have the role.
	AWSLogs bool
	// ShareNetwork lets the role's containers share a network namespace with other roles even where a container there
	// could read the others' credentials off lo.
	ShareNetwork bool
	Egress       *Egress // nil: no way out
	Allow        []policy.Rule
}

// IMDSMode is which instance metadata service a container sees.
type IMDSMode string

// The modes.
const (
	IMDSv2Only  IMDSMode = "v2-only"   // asks for a session token first, the default
	IMDSv1AndV2 IMDSMode = "v1-and-v2" // answers clients that know no tokens as well
	IMDSOff     IMDSMode = "off"       // not served; its addresses lead nowhere
)

// Injection is how a container's environment names its credentials.
type Injection string

// The injections.
const (
	InjectRelative    Injection = "relative"     // AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, as on ECS, the default
	InjectFull        Injection = "full"         // …_FULL_URI with a loopback address, and a token
	InjectPodIdentity Injection = "pod-identity" // …_FULL_URI with the address of EKS Pod Identity, and a token
)

// Egress is what a container may reach through the proxy in its own namespace.
type Egress struct {
	Services  []string // AWS services by their endpoint's name (s3, sts, logs…), in the role's region
	Endpoints []string // further ones, normalised: http(s)://host[:port]
}

// HasEngine says whether there is one to ask who a container is.
func (c *Config) HasEngine() bool { return c.Docker != "" || c.Podman != "" }

// RegionOf is the region a role's services are in: its own, else the configuration's, else "".
func (c *Config) RegionOf(r Role) string {
	if r.Region != "" {
		return r.Region
	}
	return c.Region
}

// Defaults of what may be left out.
const (
	DefaultPath     = "/etc/taskrole/config.yaml"
	DefaultSocket   = "/run/taskrole/agent.sock"
	DefaultCDIDir   = "/etc/cdi"
	DefaultDocker   = "unix:///var/run/docker.sock"
	DefaultSession  = "{role}-{id}"
	DefaultDuration = time.Hour
	DefaultCalls    = 20 // of STS a second; AWS's own limit is 600 an account and region
)

// defaults is the one place where absent keys get their values.
func defaults(path string) *Config {
	return &Config{
		Path:   path,
		Socket: DefaultSocket,
		Docker: DefaultDocker,
		Late:   true,
		CDI:    CDI{Dir: DefaultCDIDir},
		STS:    STS{CallsPerSecond: DefaultCalls},

		AskHost: true,
		Guard:   Guard{Mode: GuardOff},
	}
}

func defaultRole(name string) Role {
	return Role{Name: name, Session: DefaultSession, Duration: DefaultDuration, IMDS: IMDSv2Only, Inject: InjectRelative}
}
