// Package audit says who holds which AWS identity, and how: it turns the facts of containers and images into a list,
// long-lived keys first, and writes it for people, programs and pipelines.
//
// It is pure, and holds no secret: the facts have none. It refuses to call a container harmless that it could not look
// into; such a one is listed as unseen.
package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"taskrole/internal/diagnose"
)

// Rule is a stable word for one way of holding an identity. Each has a heading in doc/audit.md.
type Rule string

// The rules, the worst first.
const (
	LongLivedKey   Rule = "long-lived-key"
	TemporaryKey   Rule = "temporary-key"
	OtherKey       Rule = "other-key"
	HostRole       Rule = "host-role"
	MountedProfile Rule = "mounted-profile"
	Unseen         Rule = "unseen"
	WebIdentity    Rule = "web-identity"
	OtherEndpoint  Rule = "other-endpoint"
	TaskRole       Rule = "task-role"
)

// Level is SARIF's word for how bad it is.
type Level string

// The levels.
const (
	Error   Level = "error"
	Warning Level = "warning"
	Note    Level = "note"
	None    Level = "none" // as it should be
)

// rules say what each way means.
var rules = []struct {
	rule  Rule
	level Level
	text  string
}{
	{LongLivedKey, Error, "A key of an IAM user, which never expires, can be read here."},
	{TemporaryKey, Warning, "A copied session is here: it ends, and until then whoever reads it has it."},
	{OtherKey, Warning, "A key of an unknown kind is here."},
	{HostRole, Warning, "The container can have the instance's role from the metadata service."},
	{MountedProfile, Warning, "A directory of AWS profiles of the host is mounted."},
	{Unseen, Warning, "This could not be looked into."},
	{WebIdentity, None, "A role is assumed with a token of its own."},
	{OtherEndpoint, None, "A container endpoint that is not taskrole's serves a role."},
	{TaskRole, None, "taskrole serves a role of its own."},
}

// Rules are all of them, the worst first.
func Rules() []Rule {
	all := make([]Rule, 0, len(rules))
	for _, r := range rules {
		all = append(all, r.rule)
	}
	return all
}

// rank is a rule's place in the list.
func (r Rule) rank() int { return slices.Index(Rules(), r) }

// Level is how bad it is.
func (r Rule) Level() Level { return rules[r.rank()].level }

// Holder is a container, an image, or an engine that did not tell what it has.
type Holder struct {
	Kind   string `json:"kind"` // container, image or engine
	Engine string `json:"engine"`
	Name   string `json:"name"`
	ID     string `json:"id,omitempty"`
}

// Holding is one identity that one holder has.
type Holding struct {
	Holder

	Rule     Rule   `json:"rule"`
	Level    Level  `json:"level"`
	Identity string `json:"identity"` // a masked key, a role
	How      string `json:"how"`      // where it comes from
}

func hold(h Holder, r Rule, identity, how string) Holding {
	return Holding{Holder: h, Rule: r, Level: r.Level(), Identity: identity, How: how}
}

// keyRule is the rule for a key of a kind.
func keyRule(k diagnose.KeyKind) Rule {
	switch k {
	case diagnose.LongLived:
		return LongLivedKey
	case diagnose.Temporary:
		return TemporaryKey
	case diagnose.Unknown, diagnose.NoKey:
	}
	return OtherKey
}

// keyVariables are where programs look for key ids.
var keyVariables = []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AMAZON_ACCESS_KEY_ID"}

// Environment are the keys in an environment; how names whose.
func Environment(h Holder, env map[string]diagnose.Var, how string) []Holding {
	var all []Holding
	for _, v := range keyVariables {
		if k := env[v]; k.Kind != diagnose.NoKey {
			all = append(all, hold(h, keyRule(k.Kind), k.Masked, how+" ("+v+")"))
		}
	}
	return all
}

// Key is a key that was found in a text.
type Key struct {
	Kind   diagnose.KeyKind
	Masked string
}

// Keys are keys in a text that how names.
func Keys(h Holder, keys []Key, how string) []Holding {
	var all []Holding
	for _, k := range keys {
		all = append(all, hold(h, keyRule(k.Kind), k.Masked, how))
	}
	return all
}

// Process are the identities that a running container's process has.
func Process(h Holder, f *diagnose.Facts) []Holding {
	all := Environment(h, f.Env, "environment of its process")
	seen := map[string]bool{}
	for _, file := range []diagnose.File{f.Credentials, f.Config, f.HomeFile} {
		for name, p := range file.Profiles {
			if p.Kind != diagnose.NoKey && p.Secret && !seen[file.Path+"\n"+name] {
				seen[file.Path+"\n"+name] = true
				all = append(all, hold(h, keyRule(p.Kind), p.Masked, fmt.Sprintf("%s, profile %q", file.Path, name)))
			}
		}
	}
	if f.Env["AWS_WEB_IDENTITY_TOKEN_FILE"].Length > 0 && f.Env["AWS_ROLE_ARN"].Length > 0 {
		all = append(all, hold(h, WebIdentity, f.Env["AWS_ROLE_ARN"].Text, "AWS_WEB_IDENTITY_TOKEN_FILE"))
	}
	switch {
	case f.Role.Name != "":
		all = append(all, hold(h, TaskRole, f.Role.Name, strings.TrimSuffix("taskrole, "+f.Role.ARN, ", ")))
	case f.Container.OK() && f.Container.Doc.Key:
		all = append(all, hold(h, OtherEndpoint, f.Container.Doc.RoleARN, f.Container.URL))
	}
	if f.IMDS.Role != "" && !f.IMDS.Local {
		all = append(all, hold(h, HostRole, f.IMDS.Role, "instance metadata over its network"))
	}
	for _, u := range f.Unseen {
		all = append(all, hold(h, Unseen, "", u))
	}
	return all
}

// Mounts are the mounted directories of profiles among the paths inside a container that does not run.
func Mounts(h Holder, destinations []string) []Holding {
	var all []Holding
	for _, d := range destinations {
		if strings.HasSuffix(d, "/.aws") || strings.Contains(d, "/.aws/") {
			all = append(all, hold(h, MountedProfile, "", "mounted at "+d))
		}
	}
	return all
}

// Blind says that a holder could not be looked into.
func Blind(h Holder, why string) Holding { return hold(h, Unseen, "", why) }

// Sort puts the worst first, and leaves out what is there twice.
func Sort(all []Holding) []Holding {
	slices.SortFunc(all, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(a.Rule.rank(), b.Rule.rank()), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Engine, b.Engine), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.ID, b.ID), cmp.Compare(a.How, b.How), cmp.Compare(a.Identity, b.Identity))
	})
	return slices.Compact(all)
}

// Failing counts the holdings of level error.
func Failing(all []Holding) int {
	n := 0
	for _, h := range all {
		if h.Level == Error {
			n++
		}
	}
	return n
}
