package agent

import (
	"context"
	"log/slog"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/policy"
)

// operator answers people at the host's command line. Only root may ask, so a role's allow is not looked at: it says
// which containers may hold the role, and root may change it.
type operator struct{ a *Agent }

// Roles implements control.Operator.
func (o operator) Roles(context.Context) ([]control.Role, error) {
	return Roles(o.a.config.Load()), nil
}

// Roles describes the roles of a configuration as a running agent does.
func Roles(cfg *config.Config) []control.Role {
	roles := make([]control.Role, len(cfg.Roles))
	for i, r := range cfg.Roles {
		roles[i] = control.Role{
			Name: r.Name, ARN: r.ARN.String(), Region: cfg.RegionOf(r), Session: r.Session, Seconds: int(r.Duration / time.Second),
			Inject: string(r.Inject), IMDS: string(r.IMDS), Egress: r.Egress != nil, TaskMetadata: r.TaskMetadata, Allow: rules(r.Allow),
		}
	}
	return roles
}

// rules says in words what each rule wants.
func rules(all []policy.Rule) []string {
	words := make([]string, len(all))
	for i, r := range all {
		words[i] = r.String()
	}
	return words
}

// Check implements control.Operator. It is a call to STS each time, among those that wait for containers that start.
func (o operator) Check(ctx context.Context, name string) (control.CheckReply, error) {
	g, _, err := o.grant(name, "check")
	if err != nil {
		return control.CheckReply{}, err
	}
	c, err := o.a.broker.Try(ctx, g)
	defer o.a.worked()
	if err != nil {
		return control.CheckReply{}, err
	}
	return control.CheckReply{Role: name, RoleARN: c.RoleARN, Session: g.Session, Expires: c.Expires}, nil
}

// Credentials implements control.Operator.
func (o operator) Credentials(ctx context.Context, r control.CredentialsRequest, p control.Peer) (control.CredentialsReply, error) {
	log := o.a.log.With(slog.String("role", r.Role), slog.String("use", r.Use), slog.Int64("uid", int64(p.UID)), slog.Int64("pid", int64(p.PID)))
	reply, err := o.credentials(ctx, r)
	defer o.a.worked()
	if err != nil {
		f := fault.As(err)
		log.WarnContext(ctx, "credentials refused", slog.String("code", string(f.Code)), slog.String("error", f.What))
		return control.CredentialsReply{}, f
	}
	log.InfoContext(ctx, "credentials handed out", slog.String("role_arn", reply.Credentials.RoleARN),
		slog.String("session", reply.Session), slog.Time("expires", reply.Credentials.Expires))
	return reply, nil
}

func (o operator) credentials(ctx context.Context, r control.CredentialsRequest) (control.CredentialsReply, error) {
	g, role, err := o.grant(r.Role, r.Use)
	if err != nil {
		return control.CredentialsReply{}, err
	}
	// The broker keeps them for two minutes: a script that asks for each command does not call STS for each.
	lease, err := o.a.broker.Acquire(ctx, g)
	if err != nil {
		return control.CredentialsReply{}, err
	}
	defer lease.Release()
	c, err := lease.Credentials()
	if err != nil {
		return control.CredentialsReply{}, err
	}
	return control.CredentialsReply{Credentials: c, Session: g.Session, Region: o.a.telling.mixed.Load().In(o.a.config.Load().RegionOf(role)).Region}, nil
}

// grant is a session of the role that is named after what it is for, where a container's is named after the container.
func (o operator) grant(name, use string) (grant.Grant, config.Role, error) {
	cfg := o.a.config.Load()
	role, err := cfg.Role(name)
	if err != nil {
		return grant.Grant{}, config.Role{}, err
	}
	session, err := role.SessionName(container.Container{ID: container.ID(use), Name: use}, o.a.hostname)
	if err != nil {
		return grant.Grant{}, config.Role{}, err
	}
	return newGrant(cfg, role, session), role, nil
}

// newGrant is what the configuration says of a role, for one session.
func newGrant(cfg *config.Config, role config.Role, session string) grant.Grant {
	return grant.Grant{
		Role: role.ARN, Session: session, Duration: role.Duration, ExternalID: role.ExternalID,
		Policy: role.Policy, Tags: role.Tags, Region: cfg.RegionOf(role),
	}
}
