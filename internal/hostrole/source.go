package hostrole

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/awssts"
	"taskrole/internal/broker"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// use is what the session is named after, where a container's is named after the container.
const use = "exec"

// askLimit is for one question to the agent, which itself may have to ask AWS.
const askLimit = 15 * time.Second

// source is where the broker gets a command's credentials from.
type source struct {
	broker.Source
	grant grant.Grant
}

// open finds out who gives the role: the agent, or without one AWS, by the same configuration and the same identity of
// the host. It stays with that for the life of the command.
func open(ctx context.Context, o ServeOptions) (source, access, error) {
	s := &agentSource{socket: o.Socket, role: o.Role}
	first, err := s.ask(ctx)
	switch {
	case err == nil:
		return s.opened(first)
	case fault.CodeOf(err) == fault.AgentUnreachable:
		return direct(ctx, o)
	default:
		return source{}, access{}, err
	}
}

// agentSource asks the agent. The agent's own credentials are renewed before their life is half over, so what it
// gives has some left.
type agentSource struct {
	socket, role string

	mu    sync.Mutex
	first *secret.Credentials // which open has got, for the first call
}

func (s *agentSource) ask(ctx context.Context) (control.CredentialsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return control.Credentials(ctx, s.socket, control.CredentialsRequest{Role: s.role, Use: use})
}

func (s *agentSource) opened(first control.CredentialsReply) (source, access, error) {
	role, err := arn.ParseRole(first.Credentials.RoleARN)
	if err != nil {
		return source{}, access{}, fault.As(fmt.Errorf("read the agent's answer: %w", err))
	}
	s.first = &first.Credentials
	return source{s, grant.Grant{Role: role, Session: first.Session}},
		access{Region: first.Region, RoleARN: role.String(), Session: first.Session, Agent: true}, nil
}

// AssumeRole implements broker.Source. What the grant says beyond the name of the role is the agent's business.
func (s *agentSource) AssumeRole(ctx context.Context, _ grant.Grant) (secret.Credentials, error) {
	s.mu.Lock()
	first := s.first
	s.first = nil
	s.mu.Unlock()
	if first != nil {
		return *first, nil
	}
	reply, err := s.ask(ctx)
	return reply.Credentials, err
}

// direct prepares to ask AWS, as an agent would.
func direct(ctx context.Context, o ServeOptions) (source, access, error) {
	cfg, err := config.Load(o.ConfigPath)
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return source{}, access{}, fault.Wrap(err, fault.ConfigInvalid,
			fmt.Sprintf("no agent answers at %s, and the configuration cannot be used: %s", o.Socket, problems[0]),
			fmt.Sprintf(`"taskrole config check %s" says everything that is wrong`, o.ConfigPath))
	}
	if err != nil {
		return source{}, access{}, err
	}
	role, err := cfg.Role(o.Role)
	if err != nil {
		return source{}, access{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return source{}, access{}, fmt.Errorf("read the host's name: %w", err)
	}
	session, err := role.SessionName(container.Container{ID: use, Name: use}, host)
	if err != nil {
		return source{}, access{}, err
	}
	sts, err := awssts.New(ctx, awssts.Options{Region: cfg.Region, Endpoint: cfg.STS.Endpoint})
	if err != nil {
		return source{}, access{}, err
	}
	g := grant.Grant{
		Role: role.ARN, Session: session, Duration: role.Duration, ExternalID: role.ExternalID,
		Policy: role.Policy, Tags: role.Tags, Region: cfg.RegionOf(role),
	}
	return source{sts, g}, access{Region: g.Region, RoleARN: role.ARN.String(), Session: session}, nil
}
