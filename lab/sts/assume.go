package sts

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"taskrole/internal/arn"
	"taskrole/lab/iam"
)

// chainedLife is the longest session of a role that was assumed with the credentials of another role.
const chainedLife = time.Hour

// timeFormat is what AWS writes and what JavaScript's SDK insists on: whole seconds and a Z.
const timeFormat = "2006-01-02T15:04:05Z"

func (c *call) assumeRole() (*element, error) {
	form, err := c.parameters(knownToAssumeRole)
	if err != nil {
		return nil, err
	}
	in, err := parseInput(form)
	if err != nil {
		return nil, err
	}
	if _, err := arn.ParseRole(in.roleARN); err != nil {
		return nil, sender("ValidationError", in.roleARN+" is invalid")
	}
	policies, packed, err := in.pack()
	if err != nil {
		return nil, err
	}
	tags, transitive, err := c.inherit(in)
	if err != nil {
		return nil, err
	}
	role, err := c.authorize(in)
	if err != nil {
		return nil, err
	}
	switch {
	case c.who.RoleARN != "" && in.duration > chainedLife:
		return nil, sender("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	case in.duration > role.MaxSession:
		return nil, sender("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	cred := c.o.Account.NewSession(role, iam.SessionOptions{
		Name: in.session, Life: in.duration, Policies: policies, Tags: tags, Transitive: transitive,
	})
	answer := tree(
		branch("AssumedRoleUser", leaf("AssumedRoleId", cred.Principal.UserID), leaf("Arn", cred.Principal.ARN)),
		branch("Credentials",
			leaf("AccessKeyId", cred.AccessKeyID), leaf("SecretAccessKey", cred.Secret.Reveal()),
			leaf("SessionToken", cred.Token.Reveal()), leaf("Expiration", cred.Expires.Format(timeFormat))))
	if packed > 0 {
		answer.children = append(answer.children, leaf("PackedPolicySize", strconv.Itoa(packed)))
	}
	return answer, nil
}

// pack parses the session policy and computes how much of the allotted space it and the tags take. AWS packs them
// in a binary form of its own; the share of plain characters stands for it here.
func (in *input) pack() ([]iam.Document, int, error) {
	size := len(in.policy)
	for k, v := range in.tags {
		size += len(k) + len(v)
	}
	packed := (size*100 + maxPolicy - 1) / maxPolicy
	if packed > 100 {
		return nil, 0, sender("PackedPolicyTooLarge", fmt.Sprintf("Packed policy consumes %d%% of allotted space, please use smaller policy.", packed))
	}
	if in.policy == "" {
		return nil, packed, nil
	}
	doc, err := iam.ParsePolicy(in.policy)
	if err != nil {
		return nil, 0, sender("MalformedPolicyDocument", "Syntax errors in policy.")
	}
	return []iam.Document{doc}, packed, nil
}

// inherit adds the calling session's transitive tags, which the new session can neither change nor drop.
func (c *call) inherit(in *input) (tags map[string]string, transitive []string, err error) {
	tags, transitive = maps.Clone(in.tags), slices.Clone(in.transitive)
	for _, k := range c.who.Transitive {
		for sent := range in.tags {
			if strings.EqualFold(sent, k) {
				return nil, nil, sender("InvalidParameterValue", "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
			}
		}
		tags[k] = c.who.Tags[k]
		transitive = append(transitive, k)
	}
	return tags, transitive, nil
}

// authorize asks the trust policy and the caller's own, once for the role and once for the tags. A role that does
// not exist is refused in the same words as one that does not trust the caller.
func (c *call) authorize(in *input) (*iam.Role, error) {
	role := c.o.Account.Role(in.roleARN)
	if role == nil {
		return nil, denied(c.who.Denied("sts:AssumeRole", in.roleARN))
	}
	ctx := iam.TagContext(in.tags)
	ctx["sts:rolesessionname"] = []string{in.session}
	if in.externalID != "" {
		ctx["sts:externalid"] = []string{in.externalID}
	}
	if host, _, err := net.SplitHostPort(c.r.RemoteAddr); err == nil {
		ctx["aws:sourceip"] = []string{host}
	}
	if err := c.who.AuthorizeTrust("sts:AssumeRole", role, ctx); err != nil {
		return nil, denied(err)
	}
	if len(in.tags) == 0 {
		return role, nil
	}
	if len(in.transitive) > 0 {
		ctx["sts:transitivetagkeys"] = in.transitive
	}
	if err := c.who.AuthorizeTrust("sts:TagSession", role, ctx); err != nil {
		return nil, denied(err)
	}
	return role, nil
}

// denied gives the reason only where somebody denies in so many words, as STS does: that nobody allows it may have many
// reasons, and STS tells none of them to who is not let in.
func denied(err error) error {
	var d *iam.DeniedError
	if !errors.As(err, &d) {
		return err
	}
	text := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", d.Principal, d.Action, d.Resource)
	if strings.HasPrefix(d.Reason, "with an explicit deny") {
		text += " " + d.Reason
	}
	return forbidden("AccessDenied", text)
}
