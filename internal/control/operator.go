package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// Operator answers what only people at the host's command line ask: which roles there are, whether they work, and one
// role's credentials. It is apart from Handler because a container's start needs none of it. The rules for Handler's
// methods hold here too.
type Operator interface {
	Roles(ctx context.Context) ([]Role, error)
	// Check asks AWS for a session of the role and throws it away. The error says why there is none.
	Check(ctx context.Context, role string) (CheckReply, error)
	// Credentials hands out a session of the role. Whoever implements it writes down that p got it.
	Credentials(ctx context.Context, r CredentialsRequest, p Peer) (CredentialsReply, error)
}

// WithOperator makes Serve answer the requests of people too. Without it they are refused.
func WithOperator(o Operator) Option { return func(s *server) { s.operator = o } }

// Peer is who asks, as the kernel noted when they connected.
type Peer struct {
	UID uint32
	PID int32 // may have ended since
}

// Role is one role of the agent's configuration.
type Role struct {
	Name         string   `json:"name"`
	ARN          string   `json:"arn"`
	Region       string   `json:"region,omitempty"` // of the role, else of STS
	Session      string   `json:"session"`          // template of the session name
	Seconds      int      `json:"duration_seconds"`
	Inject       string   `json:"inject"`
	IMDS         string   `json:"imds"`
	Egress       bool     `json:"egress"`
	TaskMetadata bool     `json:"task_metadata"`
	Allow        []string `json:"allow"` // one sentence for each rule
}

// CheckReply is a session that AWS has given.
type CheckReply struct {
	Role    string    `json:"role"`
	RoleARN string    `json:"role_arn"`
	Session string    `json:"session"`
	Expires time.Time `json:"expires"`
}

// CredentialsRequest asks for a session of a role.
type CredentialsRequest struct {
	Role string `json:"role"`
	// Use is a short word for what they are for, which the session is named after: a-z and -.
	Use string `json:"use"`
}

// CredentialsReply are one role's credentials. They are for whoever asked, and are not renewed.
type CredentialsReply struct {
	Credentials secret.Credentials
	Session     string
	Region      string // or empty
}

// wireCredentials is CredentialsReply as it goes over the socket, the one place where the text is in the open: the
// socket is root's on both ends.
type wireCredentials struct {
	AccessKeyID     string    `json:"access_key_id"`
	SecretAccessKey string    `json:"secret_access_key"`
	SessionToken    string    `json:"session_token"`
	Expires         time.Time `json:"expires"`
	AccountID       string    `json:"account_id"`
	RoleARN         string    `json:"role_arn"`
	Session         string    `json:"session"`
	Region          string    `json:"region,omitempty"`
}

func (r CredentialsReply) wire() *wireCredentials {
	c := r.Credentials
	return &wireCredentials{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey.Reveal(), SessionToken: c.SessionToken.Reveal(),
		Expires: c.Expires, AccountID: c.AccountID, RoleARN: c.RoleARN, Session: r.Session, Region: r.Region,
	}
}

func (w *wireCredentials) reply() CredentialsReply {
	return CredentialsReply{Session: w.Session, Region: w.Region, Credentials: secret.Credentials{
		AccessKeyID: w.AccessKeyID, SecretAccessKey: secret.New(w.SecretAccessKey), SessionToken: secret.New(w.SessionToken),
		Expires: w.Expires, AccountID: w.AccountID, RoleARN: w.RoleARN,
	}}
}

// rolesRequest asks for the roles whose name sorts after After.
type rolesRequest struct {
	After string `json:"after,omitempty"`
}

type rolesPage struct {
	Roles []Role `json:"roles"`
	More  bool   `json:"more,omitempty"`
}

type checkRequest struct {
	Role string `json:"role"`
}

// maxUse bounds CredentialsRequest.Use: it goes into a session name of 64 characters.
const maxUse = 16

func (r *CredentialsRequest) check() error {
	if err := checkRole(r.Role); err != nil {
		return err
	}
	ok := r.Use != "" && len(r.Use) <= maxUse && r.Use[0] != '-'
	for _, c := range r.Use {
		ok = ok && (c >= 'a' && c <= 'z' || c == '-')
	}
	if !ok {
		return invalid(nil, fmt.Sprintf("%s does not say what credentials are for", quote(r.Use)))
	}
	return nil
}

func checkRole(name string) error {
	switch {
	case name == "":
		return invalid(nil, "a request without a role")
	case len(name) > maxRole || strings.IndexFunc(name, func(c rune) bool { return !unicode.IsGraphic(c) }) >= 0:
		return invalid(nil, fmt.Sprintf("%s is not the name of a role", quote(name)))
	}
	return nil
}

// operate answers a request of people.
func (s *server) operate(ctx context.Context, r request, p Peer) (reply, error) {
	if s.operator == nil {
		return reply{}, invalid(nil, "this agent answers no such request")
	}
	switch {
	case r.Roles != nil:
		all, err := s.operator.Roles(ctx)
		if err != nil {
			return reply{}, err
		}
		roles, more := page(all, func(r Role) string { return r.Name }, r.Roles.After)
		return reply{Roles: &rolesPage{Roles: roles, More: more}}, nil
	case r.Check != nil:
		c, err := s.operator.Check(ctx, r.Check.Role)
		return reply{Check: &c}, err
	default:
		c, err := s.operator.Credentials(ctx, *r.Credentials, p)
		if err == nil && !c.Credentials.Complete() {
			err = fault.New(fault.CredentialsNotReady, "the agent's credentials are not complete", "try again in a moment")
		}
		if err != nil {
			return reply{}, err
		}
		return reply{Credentials: c.wire()}, nil
	}
}

// Roles asks the agent at socket for its roles, sorted by name. Errors are as those of Attach.
func Roles(ctx context.Context, socket string) ([]Role, error) {
	return pages(func(after string) ([]Role, bool, error) {
		answer, err := call(ctx, socket, request{Roles: &rolesRequest{After: after}})
		if err != nil {
			return nil, false, err
		}
		if answer.Roles == nil {
			return nil, false, notTheAgent(socket)
		}
		return answer.Roles.Roles, answer.Roles.More, nil
	}, func(r Role) string { return r.Name }, socket)
}

// Check asks the agent at socket to try the role. Errors are as those of Attach.
func Check(ctx context.Context, socket, role string) (CheckReply, error) {
	answer, err := call(ctx, socket, request{Check: &checkRequest{Role: role}})
	if err != nil {
		return CheckReply{}, err
	}
	if answer.Check == nil || answer.Check.Role != role {
		return CheckReply{}, notTheAgent(socket)
	}
	return *answer.Check, nil
}

// Credentials asks the agent at socket for a session of a role. Errors are as those of Attach; credentials that are
// returned are complete.
func Credentials(ctx context.Context, socket string, r CredentialsRequest) (CredentialsReply, error) {
	answer, err := call(ctx, socket, request{Credentials: &r})
	if err != nil {
		return CredentialsReply{}, err
	}
	if answer.Credentials == nil {
		return CredentialsReply{}, notTheAgent(socket)
	}
	c := answer.Credentials.reply()
	if !c.Credentials.Complete() {
		return CredentialsReply{}, notTheAgent(socket)
	}
	return c, nil
}

func notTheAgent(socket string) error {
	return unreachable(errors.New("reply is about something else"), fmt.Sprintf("what answers at %s is not the taskrole agent", socket))
}
