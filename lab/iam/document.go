package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Document is a policy that has been checked. The zero Document allows nothing.
type Document struct {
	statements []statement
}

// list is a JSON string or a list of them.
type list []string

type statement struct {
	Sid                                      string
	Effect                                   string
	Principal                                *principals
	Action, NotAction, Resource, NotResource list
	Condition                                map[string]map[string]list
	variables                                bool // since version 2012-10-17
}

// principals is "*" or lists by kind.
type principals struct {
	anyone bool
	byKind map[string]list
}

// ParsePolicy reads an identity or session policy. Everything it does not know is an error.
func ParsePolicy(text string) (Document, error) {
	return parse(text, func(s statement) error {
		switch {
		case s.Principal != nil:
			return errors.New("an identity policy has no Principal")
		case (len(s.Resource) == 0) == (len(s.NotResource) == 0):
			return errors.New("needs either Resource or NotResource")
		}
		return nil
	})
}

// ParseTrust reads the trust policy of a role.
func ParseTrust(text string) (Document, error) {
	return parse(text, func(s statement) error {
		switch {
		case s.Principal == nil:
			return errors.New("a trust policy needs a Principal")
		case len(s.Resource)+len(s.NotResource) > 0:
			return errors.New("a trust policy has no Resource")
		}
		return nil
	})
}

func parse(text string, extra func(statement) error) (Document, error) {
	var d struct {
		Version, ID string
		Statement   json.RawMessage
	}
	if err := strict([]byte(text), &d); err != nil {
		return Document{}, fmt.Errorf("read policy: %w", err)
	}
	if d.Version != "" && d.Version != "2008-10-17" && d.Version != "2012-10-17" {
		return Document{}, fmt.Errorf("unknown policy version %q", d.Version)
	}
	var doc Document
	if raw := bytes.TrimSpace(d.Statement); len(raw) > 0 && raw[0] == '{' {
		doc.statements = make([]statement, 1)
		if err := strict(raw, &doc.statements[0]); err != nil {
			return Document{}, fmt.Errorf("read statement: %w", err)
		}
	} else if err := strict(raw, &doc.statements); err != nil {
		return Document{}, fmt.Errorf("read statements: %w", err)
	}
	if len(doc.statements) == 0 {
		return Document{}, errors.New("a policy needs a Statement")
	}
	for i := range doc.statements {
		s := &doc.statements[i]
		s.variables = d.Version == "2012-10-17"
		if err := errors.Join(s.check(), extra(*s)); err != nil {
			return Document{}, fmt.Errorf("statement %d: %w", i, err)
		}
	}
	return doc, nil
}

func (s *statement) check() error {
	if s.Effect != "Allow" && s.Effect != "Deny" {
		return fmt.Errorf("unknown effect %q", s.Effect)
	}
	if (len(s.Action) == 0) == (len(s.NotAction) == 0) {
		return errors.New("needs either Action or NotAction")
	}
	for _, l := range []list{s.Action, s.NotAction} {
		for _, a := range l {
			if service, _, ok := strings.Cut(a, ":"); a != "*" && (!ok || service == "") {
				return fmt.Errorf("action %q names no service", a)
			}
		}
	}
	for name, keys := range s.Condition {
		if _, err := parseOperator(name); err != nil {
			return err
		}
		if len(keys) == 0 {
			return fmt.Errorf("condition %q has no key", name)
		}
	}
	return nil
}

// strict decodes one JSON value that must be all there is and hold nothing unknown.
func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more text after the document")
	}
	return nil
}

// UnmarshalJSON accepts what policies hold: a string, a list of strings, and true or false for Bool conditions.
func (l *list) UnmarshalJSON(b []byte) error {
	var one any
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	all, ok := one.([]any)
	if !ok {
		all = []any{one}
	}
	for _, v := range all {
		switch v := v.(type) {
		case string:
			*l = append(*l, v)
		case bool:
			*l = append(*l, fmt.Sprint(v))
		default:
			return fmt.Errorf("expected a string, got %T", v)
		}
	}
	return nil
}

// UnmarshalJSON accepts "*" and {"AWS": …, "Service": …, "Federated": …}.
func (p *principals) UnmarshalJSON(b []byte) error {
	var star string
	if json.Unmarshal(b, &star) == nil {
		if star != "*" {
			return fmt.Errorf("unknown principal %q", star)
		}
		p.anyone = true
		return nil
	}
	if err := json.Unmarshal(b, &p.byKind); err != nil {
		return err
	}
	for kind, values := range p.byKind {
		if kind != "AWS" && kind != "Service" && kind != "Federated" {
			return fmt.Errorf("unknown kind of principal %q", kind)
		}
		if len(values) == 0 || slices.Contains(values, "") {
			return fmt.Errorf("a principal of kind %s is empty", kind) // "" would be the role of every user
		}
	}
	return nil
}
