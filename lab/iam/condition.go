package iam

import (
	"fmt"
	"net/netip"
	"strings"
)

// Context holds the condition keys of a request: lower-case names, and one value except for keys that are sets.
type Context map[string][]string

// operator is one condition operator with its prefix and suffix taken off.
type operator struct {
	name     string
	negated  bool
	ifExists bool
	forAll   bool // ForAllValues:
	forAny   bool // ForAnyValue:
}

// parseOperator refuses what it does not know, because an operator that is ignored turns a condition into none.
func parseOperator(full string) (operator, error) {
	var op operator
	name, all := strings.CutPrefix(full, "ForAllValues:")
	name, anyOf := strings.CutPrefix(name, "ForAnyValue:")
	op.forAll, op.forAny = all, anyOf && !all
	name, op.ifExists = strings.CutSuffix(name, "IfExists")
	switch name {
	case "StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "ArnNotEquals", "ArnNotLike", "NotIpAddress":
		op.negated = true
		name = strings.Replace(name, "Not", "", 1)
	}
	op.name = name
	switch name {
	case "StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike", "Bool", "IpAddress":
		return op, nil
	case "Null":
		if !op.ifExists && !op.forAll && !op.forAny {
			return op, nil
		}
	}
	return op, fmt.Errorf("unknown condition operator %q", full)
}

// holds says whether the condition is true. Values of one key are alternatives, keys and operators all count.
func (s *statement) conditionsHold(c Context) bool {
	for full, keys := range s.Condition {
		op, err := parseOperator(full)
		if err != nil {
			return false // cannot be: checked at loading
		}
		for key, wanted := range keys {
			if !op.holds(s.variables, wanted, c[strings.ToLower(key)], c) {
				return false
			}
		}
	}
	return true
}

func (op operator) holds(variables bool, wanted, got []string, c Context) bool {
	if op.name == "Null" {
		return len(wanted) == 1 && strings.EqualFold(wanted[0], fmt.Sprint(len(got) == 0))
	}
	if len(got) == 0 {
		return op.forAll || !op.forAny && (op.ifExists || op.negated)
	}
	for _, g := range got {
		matched := false
		for _, w := range wanted {
			matched = matched || op.matches(variables, w, g, c)
		}
		switch ok := matched != op.negated; {
		case op.forAny && ok:
			return true
		case !op.forAny && !ok:
			return false
		}
	}
	return !op.forAny
}

func (op operator) matches(variables bool, wanted, got string, c Context) bool {
	p, ok := compile(wanted, variables, c)
	if !ok {
		return false
	}
	switch op.name {
	case "StringLike":
		return p.match(got)
	case "StringEquals":
		return p.text() == got
	case "ArnEquals", "ArnLike":
		return matchARN(p, got)
	case "IpAddress":
		return inNetwork(wanted, got)
	}
	return strings.EqualFold(p.text(), got) // StringEqualsIgnoreCase, Bool
}

// matchARN matches part by part, so that a star does not reach over a colon; only the sixth part may hold more.
func matchARN(p pattern, got string) bool {
	parts := strings.SplitN(got, ":", 6)
	for i, part := range parts {
		head, rest := p, pattern(nil)
		if i < 5 {
			head, rest = p.cut(':')
		}
		if !head.match(part) {
			return false
		}
		p = rest
	}
	return len(parts) == 6
}

func inNetwork(wanted, got string) bool {
	addr, err := netip.ParseAddr(got)
	if err != nil {
		return false
	}
	if one, err := netip.ParseAddr(wanted); err == nil {
		return one == addr.Unmap()
	}
	network, err := netip.ParsePrefix(wanted)
	return err == nil && network.Contains(addr.Unmap())
}
