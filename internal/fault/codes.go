package fault

import (
	"maps"
	"slices"
)

// Code is a stable word for one kind of fault. Codes are an interface: they may be added, never renamed.
type Code string

// The codes. Each has a heading in doc/errors.md.
const (
	AgentRunning         Code = "agent-running"         // another agent already listens on the control socket
	AgentUnreachable     Code = "agent-unreachable"     // nobody answers at the control socket
	ArgumentsContradict  Code = "arguments-contradict"  // run: the engine's arguments say something else than the role
	AuthorizationInvalid Code = "authorization-invalid" // the role wants a token with each request for credentials, and it is not the right one
	BundleInvalid        Code = "bundle-invalid"        // config.json of an OCI bundle cannot be read or edited
	CommandMissing       Code = "command-missing"       // exec: there is no such program
	CommandUnusable      Code = "command-unusable"      // exec: the program is there and cannot be run
	ConfigInvalid        Code = "config-invalid"        // the configuration file has problems
	ContainerGone        Code = "container-gone"        // its first process ended before we could attach
	CredentialsExpired   Code = "credentials-expired"   // nothing valid is left, and STS gives nothing new
	CredentialsNotReady  Code = "credentials-not-ready" // the first ones are not there yet
	DoctorFindings       Code = "doctor-findings"       // doctor or audit found something that is wrong
	DaemonConfigInvalid  Code = "daemon-config-invalid" // Docker's daemon.json is not one that setup can edit
	EgressDenied         Code = "egress-denied"         // the proxy does not lead there
	EgressUnreachable    Code = "egress-unreachable"    // it may lead there, but nobody answers
	EmptyURI             Code = "empty-uri"             // AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set but empty
	EngineMissing        Code = "engine-missing"        // run: the engine's command line is not installed
	EngineUnreachable    Code = "engine-unreachable"    // a rule needs the engine's word, and it does not answer
	GuardFailed          Code = "guard-failed"          // the nftables table cannot be made, or removed
	HostNetwork          Code = "host-network"          // the container has no network namespace of its own
	IMDSOff              Code = "imds-off"              // asked for by label, and the role is not served where such a container looks
	Internal             Code = "internal"              // a bug, or a host in a state we did not foresee
	KernelUnsupported    Code = "kernel-unsupported"    // the kernel lacks something we cannot do without
	MethodNotAllowed     Code = "method-not-allowed"    // HTTP
	NamespaceShared      Code = "namespace-shared"      // another container's role lives in this network namespace
	NotFound             Code = "not-found"             // HTTP: nothing is served at this path
	NotThisContainer     Code = "not-this-container"    // the connection comes from a process outside the container
	PermissionDenied     Code = "permission-denied"     // the caller of the control socket, or of a command, is not root
	PortTaken            Code = "port-taken"            // an application has the port that the endpoint needs on an old kernel
	RequestInvalid       Code = "request-invalid"       // a control request or OCI state that cannot be understood
	RoleNotAllowed       Code = "role-not-allowed"      // policy says no
	RoleUnknown          Code = "role-unknown"          // no such role in the configuration
	ProgramMissing       Code = "program-missing"       // one of our own programs is not beside the others
	RuntimeUnavailable   Code = "runtime-unavailable"   // the real OCI runtime cannot be started
	STSDenied            Code = "sts-denied"            // AWS refuses AssumeRole
	STSUnreachable       Code = "sts-unreachable"       // STS does not answer, or is throttling
	SetupConflict        Code = "setup-conflict"        // something of somebody else is where setup would put its own
	SourceUnavailable    Code = "host-identity-missing" // the agent itself has no AWS credentials
	Usage                Code = "usage"                 // wrong words on the command line
	WayMissing           Code = "way-missing"           // run: the engine has no way in
)

// HTTP statuses (RFC 9110, section 15). They are written out because net/http would double the size of
// taskrole-runtime, which every container start runs.
const (
	badRequest    = 400
	forbidden     = 403
	notFound      = 404
	notAllowed    = 405
	conflict      = 409
	internalError = 500
	badGateway    = 502
	unavailable   = 503
)

type traits struct{ status, exit int }

var codes = map[Code]traits{
	AgentRunning:         {conflict, ExitFault},
	AgentUnreachable:     {unavailable, ExitFault},
	ArgumentsContradict:  {badRequest, ExitUsage},
	AuthorizationInvalid: {forbidden, ExitFault},
	BundleInvalid:        {badRequest, ExitFault},
	CommandMissing:       {badRequest, ExitMissing},
	CommandUnusable:      {badRequest, ExitUnusable},
	ConfigInvalid:        {internalError, ExitUsage},
	ContainerGone:        {notFound, ExitFault},
	CredentialsExpired:   {unavailable, ExitFault},
	CredentialsNotReady:  {unavailable, ExitFault},
	DoctorFindings:       {internalError, ExitFault},
	DaemonConfigInvalid:  {internalError, ExitFault},
	EgressDenied:         {forbidden, ExitFault},
	EgressUnreachable:    {badGateway, ExitFault},
	EmptyURI:             {badRequest, ExitFault},
	EngineMissing:        {internalError, ExitFault},
	EngineUnreachable:    {unavailable, ExitFault},
	GuardFailed:          {internalError, ExitFault},
	HostNetwork:          {forbidden, ExitFault},
	IMDSOff:              {forbidden, ExitFault},
	Internal:             {internalError, ExitFault},
	KernelUnsupported:    {internalError, ExitFault},
	MethodNotAllowed:     {notAllowed, ExitFault},
	NamespaceShared:      {forbidden, ExitFault},
	NotFound:             {notFound, ExitFault},
	NotThisContainer:     {notFound, ExitFault},
	PermissionDenied:     {forbidden, ExitFault},
	PortTaken:            {conflict, ExitFault},
	RequestInvalid:       {badRequest, ExitFault},
	RoleNotAllowed:       {forbidden, ExitFault},
	RoleUnknown:          {forbidden, ExitFault},
	ProgramMissing:       {internalError, ExitFault},
	RuntimeUnavailable:   {internalError, ExitFault},
	STSDenied:            {forbidden, ExitFault},
	STSUnreachable:       {unavailable, ExitFault},
	SetupConflict:        {conflict, ExitFault},
	SourceUnavailable:    {unavailable, ExitFault},
	Usage:                {badRequest, ExitUsage},
	WayMissing:           {internalError, ExitFault},
}

// Known says whether c is one of the codes.
func Known(c Code) bool {
	_, ok := codes[c]
	return ok
}

// Codes returns every code, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(codes)) }
