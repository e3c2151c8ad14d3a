package iam

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"taskrole/internal/arn"
)

// Principal is who a credential belongs to.
type Principal struct {
	Account    arn.AccountID
	ARN        string
	UserID     string
	UserName   string            // of a user
	RoleARN    string            // of a session: the role it is of; "" for a user
	Tags       map[string]string // session tags
	Transitive []string          // keys of Tags that sessions made by this one inherit

	policies []Document
	session  []Document
	home     *Account
}

// Request is a call that needs permission.
type Request struct {
	Action   string // s3:GetObject
	Resource string // ARN
	Context  Context
}

// DeniedError says who may not do what, and why in AWS's words. Each service puts the parts together in its own way.
type DeniedError struct {
	Principal, Action, Resource string
	Reason                      string
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("%s may not %s on %s: %s", e.Principal, e.Action, e.Resource, e.Reason)
}

type decision int

const (
	implicit decision = iota // nothing says anything: denied
	allow
	deny
)

// Authorize says whether p may make the call: its identity policies and, if it has any, its session policies must
// allow it, and none may deny it. The error is a *DeniedError.
func (p *Principal) Authorize(r Request) error {
	c := p.context(r.Context)
	identity := evaluate(p.policies, r, c)
	if identity == deny {
		return p.denied(r, "with an explicit deny in an identity-based policy")
	}
	if err := p.authorizeAbove(r, c); err != nil {
		return err
	}
	if identity != allow {
		return p.denied(r, "because no identity-based policy allows the "+r.Action+" action")
	}
	return nil
}

// authorizeAbove asks what only narrows: the account's service control policies and the session's own.
func (p *Principal) authorizeAbove(r Request, c Context) error {
	for _, level := range []struct {
		name string
		docs []Document
	}{{"service control policy", p.home.restrictions()}, {"session policy", p.session}} {
		if len(level.docs) == 0 {
			continue
		}
		switch evaluate(level.docs, r, c) {
		case deny:
			return p.denied(r, "with an explicit deny in a "+level.name)
		case implicit:
			return p.denied(r, "because no "+level.name+" allows the "+r.Action+" action")
		}
	}
	return nil
}

// AuthorizeTrust says whether p may call action (sts:AssumeRole, sts:TagSession) on role. The trust policy must
// allow it. A trust policy that names the caller (its user, its role or its session) is enough in the same account;
// one that names the account only hands the decision to the caller's own policies. A session policy narrows both.
func (p *Principal) AuthorizeTrust(action string, role *Role, c Context) error {
	r := Request{Action: action, Resource: role.ARN(), Context: c}
	full := p.context(c)
	switch role.trusts(p, action, full) {
	case trustDenied:
		return p.denied(r, "with an explicit deny in a resource-based policy")
	case trustNone:
		return p.denied(r, "because no resource-based policy allows the "+action+" action")
	case trustAccount:
		return p.Authorize(r)
	}
	if evaluate(p.policies, r, full) == deny {
		return p.denied(r, "with an explicit deny in an identity-based policy")
	}
	return p.authorizeAbove(r, full)
}

// Denied words a refusal that no policy had to be asked for, such as one of a role that does not exist.
func (p *Principal) Denied(action, resource string) error {
	return p.denied(Request{Action: action, Resource: resource}, "because no resource-based policy allows the "+action+" action")
}

func (p *Principal) denied(r Request, reason string) error {
	return &DeniedError{Principal: p.ARN, Action: r.Action, Resource: r.Resource, Reason: reason}
}

// context adds the keys that come from the principal, and lets no request set them.
func (p *Principal) context(request Context) Context {
	c := make(Context, len(request)+5+len(p.Tags))
	for k, v := range request {
		if k = strings.ToLower(k); !strings.HasPrefix(k, "aws:principal") {
			c[k] = v
		}
	}
	c["aws:principalarn"] = []string{p.ARN}
	if p.RoleARN != "" {
		c["aws:principalarn"] = []string{p.RoleARN} // AWS: the role, not the session
	}
	c["aws:principalaccount"] = []string{string(p.Account)}
	c["aws:userid"] = []string{p.UserID}
	delete(c, "aws:username")
	if p.UserName != "" {
		c["aws:username"] = []string{p.UserName}
	}
	for k, v := range p.Tags {
		c["aws:principaltag/"+strings.ToLower(k)] = []string{v}
	}
	return c
}

// TagContext holds the condition keys of session tags that are being passed.
func TagContext(tags map[string]string) Context {
	c := Context{}
	if len(tags) == 0 {
		return c
	}
	for k, v := range tags {
		c["aws:requesttag/"+strings.ToLower(k)] = []string{v}
	}
	c["aws:tagkeys"] = slices.Sorted(maps.Keys(tags))
	return c
}

func evaluate(docs []Document, r Request, c Context) decision {
	d := implicit
	for _, doc := range docs {
		for i := range doc.statements {
			s := &doc.statements[i]
			if !s.matchesAction(r.Action) || !s.matchesResource(r.Resource, c) || !s.conditionsHold(c) {
				continue
			}
			if s.Effect == "Deny" {
				return deny
			}
			d = allow
		}
	}
	return d
}

// matchesAction compares without case, as IAM does, and knows no variables.
func (s *statement) matchesAction(action string) bool {
	patterns, want := s.Action, true
	if len(patterns) == 0 {
		patterns, want = s.NotAction, false
	}
	for _, text := range patterns {
		if p, _ := compile(strings.ToLower(text), false, nil); p.match(strings.ToLower(action)) {
			return want
		}
	}
	return !want
}

// matchesResource holds a statement with a variable that has no value for one that does not match, even if it has
// NotResource: what cannot be read must not allow.
func (s *statement) matchesResource(resource string, c Context) bool {
	patterns, want := s.Resource, true
	if len(patterns) == 0 {
		patterns, want = s.NotResource, false
	}
	matched := false
	for _, text := range patterns {
		p, ok := compile(text, s.variables, c)
		if !ok && !want && s.Effect == "Allow" {
			return false
		}
		matched = matched || ok && p.match(resource)
	}
	return matched == want
}

type trust int

const (
	trustNone    trust = iota
	trustAccount       // the caller's own policies decide
	trustNamed         // enough in itself
	trustDenied
)

// trusts evaluates the trust policy.
func (r *Role) trusts(who *Principal, action string, c Context) trust {
	result := trustNone
	for i := range r.Trust.statements {
		s := &r.Trust.statements[i]
		how := s.Principal.covers(who)
		if how == trustNone || !s.matchesAction(action) || !s.conditionsHold(c) {
			continue
		}
		if s.Effect == "Deny" {
			return trustDenied
		}
		result = max(result, how)
	}
	return result
}

// covers says how a Principal element names who. AWS knows no wildcards in it but the lone star, which counts like the
// account here.
func (p *principals) covers(who *Principal) trust {
	if p.anyone {
		return trustAccount
	}
	result := trustNone
	for _, v := range p.byKind["AWS"] {
		switch v {
		case who.ARN, who.RoleARN:
			return trustNamed
		case "*", string(who.Account), "arn:aws:iam::" + string(who.Account) + ":root":
			result = trustAccount
		}
	}
	return result
}
