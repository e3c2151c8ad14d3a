// Package diagnose knows why an AWS SDK in a process finds the credentials it finds, or none: facts in, the chain of
// each SDK and the findings out.
//
// It is pure, so that all it knows can be tested as tables, and it never guesses: a finding names the fact it follows
// from, and what could not be seen is listed as such instead of being assumed. It refuses to hold secrets: whoever
// collects the facts masks key ids and keeps of every secret value only whether and how long it is. What it says of
// the SDKs was read in their sources or observed by running them.
package diagnose

import (
	"strings"
	"time"
)

// Facts are what is known of one process, or of a container that is not started yet.
type Facts struct {
	Subject Subject
	// SDKs are those found in the process or named by whoever asks; empty: any may be there.
	SDKs []SDK
	// Libraries are what was found of SDKs, with their versions. SDKs may name more: those that the program can have.
	Libraries []Library
	Env       map[string]Var // what AWS clients read; a variable that is not set is not in it
	// TokensDiffer says that AWS_SECURITY_TOKEN and AWS_SESSION_TOKEN hold different values.
	TokensDiffer bool

	Credentials File // where AWS_SHARED_CREDENTIALS_FILE leads, else ~/.aws/credentials
	Config      File // where AWS_CONFIG_FILE leads, else ~/.aws/config
	HomeFile    File // ~/.aws/credentials if AWS_SHARED_CREDENTIALS_FILE leads elsewhere
	// ImageKeys are the key ids in the commands that the image's layers were made by.
	ImageKeys   []ImageKey
	TokenFile   File // of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE
	WebIdentity File // of AWS_WEB_IDENTITY_TOKEN_FILE

	Net       Network
	Container Answer // of the endpoint that the container variables lead to
	Full      Answer // of the full URI, where the relative one is set too and counts for most
	IMDS      IMDS
	Role      Role
	Host      Host
	Unseen    []string // sentences: what could not be looked at, and why
}

// Subject is what is being looked at.
type Subject struct {
	PID       int    `json:"pid,omitempty"`
	Program   string `json:"program,omitempty"`
	UID       int    `json:"uid"`
	Home      string `json:"home,omitempty"`
	Container string `json:"container,omitempty"` // name or short id
	// Engine is who knows the container, and EngineUser the user whose own engine that is, where it is not root's.
	Engine     string `json:"engine,omitempty"`
	EngineUser int    `json:"engine_user,omitempty"`
	Image      string `json:"image,omitempty"`
	Network    string `json:"network,omitempty"` // the engine's word for it
	// Planned says that nothing has been started: only words can be judged.
	Planned bool `json:"planned,omitempty"`
	// Stopped is the engine's message about a container that did not start, or "".
	Stopped string `json:"stopped,omitempty"`
	// NotRunning says that the container has no process now.
	NotRunning bool `json:"not_running,omitempty"`
}

// Var is one variable of the environment.
type Var struct {
	Text   string // empty for secrets; without what may be secret in it
	Length int    // of the whole value
	Kind   KeyKind
	Masked string // of key ids
}

// KeyKind is what an access key id's first four letters say.
type KeyKind string

// The kinds of key ids.
const (
	NoKey     KeyKind = ""
	LongLived KeyKind = "AKIA"  // of an IAM user
	Temporary KeyKind = "ASIA"  // of a session; useless without its token
	Unknown   KeyKind = "other" // neither
)

// Mask keeps of a key id what people recognise it by.
func Mask(id string) (KeyKind, string) {
	const enough = 12 // of which eight are shown
	kind := Unknown
	switch {
	case id == "":
		return NoKey, ""
	case strings.HasPrefix(id, string(LongLived)):
		kind = LongLived
	case strings.HasPrefix(id, string(Temporary)):
		kind = Temporary
	}
	odd := func(r rune) bool { return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	if len(id) < enough || kind == Unknown || strings.ContainsFunc(id, odd) {
		return kind, "…" // it may be anything, also a secret in the wrong place
	}
	return kind, id[:4] + "…" + id[len(id)-4:]
}

// ImageKey is a key id in an image's history.
type ImageKey struct {
	Layer  int // counted from the last one, which is 1
	Kind   KeyKind
	Masked string
}

// State is how a file was found, as the process's user.
type State string

// The states of a file.
const (
	NotLooked  State = ""
	Missing    State = "missing"
	Unreadable State = "unreadable"
	Odd        State = "odd" // a directory, a device, too large
	Read       State = "read"
)

// File is a file in the process's root.
type File struct {
	Path     string
	State    State
	Why      string // of Unreadable and Odd
	Profiles map[string]Profile
	Newline  bool // a token file holds a line break
	Empty    bool
}

// Profile is one section of a credentials or configuration file.
type Profile struct {
	Kind                 KeyKind
	Masked               string
	Secret, Token        bool
	RoleARN              string
	SourceProfile        string
	CredentialSource     string
	WebIdentity          string // file
	SSO, Process, LogsIn bool
	Region               string
}

// Network is the process's network namespace.
type Network struct {
	Known     bool
	Host      bool     // it is the host's own
	Addresses []string // IPv4 and IPv6 of all devices, without loopback's
	OnLo      []string // those of taskrole that are on this namespace's devices
	Devices   []string // that are up, without lo
	Routed    bool     // there is a route that leads to 169.254.169.254
	Routed6   bool     // likewise to fd00:ec2::254
	IPv6      string   // IPv6On, or why there is none; "" is not known
	Resolver  string   // first nameserver of /etc/resolv.conf
	Port80    bool     // a socket listens on port 80 of every address
}

// Outcome is how an attempt to ask ended.
type Outcome string

// The outcomes.
const (
	NotAsked    Outcome = ""
	Answered    Outcome = "answered"
	Refused     Outcome = "refused"     // nobody listens there
	Unreachable Outcome = "unreachable" // no route, or an ICMP error
	Silent      Outcome = "silent"      // connected, no answer in time
	Dropped     Outcome = "dropped"     // not even connected in time
	Broken      Outcome = "broken"      // cut or not HTTP
)

// Answer is one request to an endpoint from inside the namespace.
type Answer struct {
	URL      string // without what may be a secret
	Outcome  Outcome
	Why      string // of everything but Answered
	Status   int
	Taskrole bool   // its agent answered
	Code     string // of an error document
	Message  string // likewise, cut
	Doc      Document
	Skew     time.Duration // the answer's Date less our clock, if HasDate
	HasDate  bool
	Elapsed  time.Duration
}

// OK says whether it answered with 200.
func (a Answer) OK() bool { return a.Outcome == Answered && a.Status == 200 }

// Document is what a credentials document held, without its values.
type Document struct {
	JSON               bool
	Key, Secret, Token bool // there is a text that is not empty
	Kind               KeyKind
	Masked             string
	RoleARN            string
	Code               string // "Success" from IMDS
	Expires            time.Time
}

// IMDS is what the instance metadata service said.
type IMDS struct {
	Token Answer // PUT /latest/api/token
	V1    Answer // the listing, without a token
	V2    Answer // the listing with the token
	Role  string // the name it lists
	Local bool   // the address where it was asked is on a device of the namespace itself
}

// Role is what taskrole knows of the container.
type Role struct {
	Asked string // AgentUp, AgentDown, or "" if nobody could ask
	Name  string // attached now with this role, or ""
	ARN   string
	// Wanted is the role that the container asks for by its environment, or "".
	Wanted string
	// IMDS is what the configuration says of the metadata service for the role: v2-only, v1-and-v2, off; or "".
	IMDS string
	// Missing are addresses that the agent counts as served and that the namespace does not have.
	Missing []string
	// Gone is what the agent itself says that somebody took away from the namespace, or "".
	Gone string
	// Trace is why policy says no, one line a rule; Denied says that it does.
	Denied  bool
	Trace   []string
	Problem string // "sentence [code]" of the agent about this container, or ""
	Sent    Sent   // with AssumeRole, by the configuration
}

// AgentUp and AgentDown say whether the agent answers.
const (
	AgentUp   = "up"
	AgentDown = "down"
)

// Host is what the host itself offers.
type Host struct {
	Looked      bool
	Root        bool
	SkLookup    string // "", or why the kernel cannot do it
	Cgroup      string // v2, hybrid, v1
	ConfigError string // of the configuration; "" if it is fine or was not looked at
	ConfigPath  string
	Roles       int
	Guard       string // the configuration's mode: off, audit, enforce; "" where there is none
	Engine      string // "", or why the engine does not answer
	Kernel      string
	Now         time.Time
}
