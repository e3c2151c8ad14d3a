// Package policy decides whether a container may hold a role.
//
// A role lists rules; a container may hold the role if at least one rule matches it. There are no denying rules, so
// order never matters and adding a rule never takes anything away. The package is pure: facts in, decision and the
// reasons out. It refuses to guess: a fact that no engine vouches for matches no pattern, not even "*", and a rule
// that asks for nothing matches nothing.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"taskrole/internal/container"
)

// Rule is one line of a role's allow list. Every part that is given must match. The zero Rule matches no container.
//
// Patterns are globs: * stands for any characters (also none, also / and :), ? for exactly one; all else for itself.
type Rule struct {
	Any    bool              // every container, also one that no engine vouches for
	Name   string            // glob; "" does not ask for a name
	Image  string            // glob; a pattern without tag and digest stands for all of them; "" does not ask
	Labels map[string]string // key → glob; every key must be there
}

// NeedsEngine says whether an engine's word on the container is needed to decide the rule.
func (r Rule) NeedsEngine() bool { return r.Name != "" || r.Image != "" || len(r.Labels) > 0 }

// String says what the rule wants, for people.
func (r Rule) String() string {
	if !r.NeedsEngine() {
		if r.Any {
			return "any container"
		}
		return "nothing"
	}
	var parts []string
	if r.Name != "" {
		parts = append(parts, "name "+quote(r.Name))
	}
	if r.Image != "" {
		parts = append(parts, "image "+quote(r.Image))
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		parts = append(parts, "label "+key+"="+quote(r.Labels[key]))
	}
	return strings.Join(parts, ", ")
}

// Decision is the answer and how it came about.
type Decision struct {
	Allowed bool
	Trace   []string // one line a rule, in the rules' order: why it matched or did not
}

// Decide says whether one of the rules matches the container.
func Decide(rules []Rule, c container.Container) Decision {
	var d Decision
	for i, r := range rules {
		ok, why := r.match(c)
		verdict := "no match"
		if ok {
			verdict, d.Allowed = "match", true
		}
		d.Trace = append(d.Trace, fmt.Sprintf("rule %d: %s: %s", i+1, verdict, why))
	}
	if len(rules) == 0 {
		d.Trace = []string{"the role has no rules: nobody may hold it"}
	}
	return d
}

func (r Rule) match(c container.Container) (bool, string) {
	if !r.NeedsEngine() {
		if r.Any {
			return true, "any container"
		}
		return false, "the rule asks for nothing, so it matches nothing"
	}
	if !c.Known {
		return false, "it asks for " + r.asks() + ", and no engine vouches for this container"
	}
	var matched []string
	test := func(what, fact, pattern string, ok bool) bool {
		if ok {
			matched = append(matched, fmt.Sprintf("%s %s is like %s", what, quote(fact), quote(pattern)))
		}
		return ok
	}
	if r.Name != "" && !test("name", c.Name, r.Name, c.Name != "" && Match(r.Name, c.Name)) {
		return false, mismatch("name", c.Name, r.Name)
	}
	if r.Image != "" && !test("image", c.Image, r.Image, c.Image != "" && matchImage(r.Image, c.Image)) {
		return false, mismatch("image", c.Image, r.Image)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		value, there := c.Labels[key]
		if !there {
			return false, "there is no label " + quote(key)
		}
		if !test("label "+quote(key), value, r.Labels[key], Match(r.Labels[key], value)) {
			return false, mismatch("label "+quote(key), value, r.Labels[key])
		}
	}
	return true, strings.Join(matched, ", ")
}

// asks lists the facts the rule needs.
func (r Rule) asks() string {
	var s []string
	if r.Name != "" {
		s = append(s, "the name")
	}
	if r.Image != "" {
		s = append(s, "the image")
	}
	if len(r.Labels) > 0 {
		s = append(s, "labels")
	}
	return strings.Join(s, " and ")
}

func mismatch(what, fact, pattern string) string {
	if len(fact) > maxFact {
		return fmt.Sprintf("%s of %d bytes is longer than a pattern may match (%d)", what, len(fact), maxFact)
	}
	return fmt.Sprintf("%s %s is not like %s", what, quote(fact), quote(pattern))
}

// quote shows text of others without letting it fill the line.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
