package iam

import "strings"

// symbol is one character of a pattern. A wildcard is not a character, so that a value put in for a variable can
// hold a star without becoming one.
type symbol int

const (
	star symbol = -1 - iota
	question
)

type pattern []symbol

// compile reads * and ?, and in documents of version 2012-10-17 variables: ${key}, ${key, 'default'} and the three
// escapes ${*} ${?} ${$}. It returns false when a variable has no value: such a pattern matches nothing.
func compile(text string, variables bool, c Context) (pattern, bool) {
	p := make(pattern, 0, len(text))
	for text != "" {
		if variables && strings.HasPrefix(text, "${") {
			name, rest, closed := strings.Cut(text[2:], "}")
			value, ok := variable(name, c)
			if !closed || !ok {
				return nil, false
			}
			p = append(p, literal(value)...)
			text = rest
			continue
		}
		switch text[0] {
		case '*':
			p = append(p, star)
		case '?':
			p = append(p, question)
		default:
			p = append(p, symbol(text[0]))
		}
		text = text[1:]
	}
	return p, true
}

func variable(name string, c Context) (string, bool) {
	switch name {
	case "*", "?", "$":
		return name, true
	}
	key, def, hasDefault := strings.Cut(name, ",")
	if v := c[strings.ToLower(strings.TrimSpace(key))]; len(v) == 1 {
		return v[0], true
	}
	def = strings.TrimSpace(def)
	if hasDefault && len(def) >= 2 && def[0] == '\'' && def[len(def)-1] == '\'' {
		return def[1 : len(def)-1], true
	}
	return "", false
}

func literal(s string) pattern {
	p := make(pattern, len(s))
	for i := range len(s) {
		p[i] = symbol(s[i])
	}
	return p
}

// match goes back to the last star only, so hostile patterns cost len(p) × len(s) at most.
func (p pattern) match(s string) bool {
	i, j := 0, 0
	lastStar, resume := -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == star:
			lastStar, resume = i, j
			i++
		case i < len(p) && (p[i] == question || p[i] == symbol(s[j])):
			i++
			j++
		case lastStar >= 0:
			resume++
			i, j = lastStar+1, resume
		default:
			return false
		}
	}
	for i < len(p) && p[i] == star {
		i++
	}
	return i == len(p)
}

// cut splits at the first c; all of p is the head when there is none.
func (p pattern) cut(c byte) (head, rest pattern) {
	for i, s := range p {
		if s == symbol(c) {
			return p[:i], p[i+1:]
		}
	}
	return p, nil
}

// text is the pattern as it was, for operators that know no wildcards.
func (p pattern) text() string {
	b := make([]byte, len(p))
	for i, s := range p {
		switch s {
		case star:
			b[i] = '*'
		case question:
			b[i] = '?'
		default:
			b[i] = byte(s) //nolint:gosec // what is no wildcard was made of a byte
		}
	}
	return string(b)
}
