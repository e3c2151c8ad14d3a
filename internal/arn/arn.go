// Package arn parses and builds the AWS names taskrole deals in: role ARNs, account ids, role session names.
//
// Names are parsed once, at the edge, into types that cannot be mixed up; inside, a value is already valid. The
// package knows only IAM roles; it refuses every other resource.
package arn

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// AccountID is twelve digits, kept as text: an account id is a name and not a number, and may begin with 0.
type AccountID string

// ParseAccountID checks s.
func ParseAccountID(s string) (AccountID, error) {
	if !accountRE.MatchString(s) {
		return "", fmt.Errorf("%s is not an account id: it must be exactly 12 digits", quote(s))
	}
	return AccountID(s), nil
}

// Role is the ARN of an IAM role, in parts.
type Role struct {
	Partition string // aws, aws-cn, aws-us-gov, …
	Account   AccountID
	Path      string // begins and ends with "/"; "/" for most roles
	Name      string
}

// Limits of IAM and STS (AssumeRole, RoleArn and RoleSessionName in the STS API reference).
const (
	maxARN         = 2048
	maxRoleName    = 64
	minSessionName = 2
	maxSessionName = 64
)

var (
	accountRE     = regexp.MustCompile(`^[0-9]{12}$`)
	partitionRE   = regexp.MustCompile(`^aws(-[a-z]+)*$`)
	nameRE        = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]+$`)
	pathRE        = regexp.MustCompile(`^/([!-.0-~]+/)*$`) // printable ASCII between slashes
	sessionNameRE = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]*$`)
)

// ParseRole parses arn:PARTITION:iam::ACCOUNT:role/PATH/NAME.
func ParseRole(s string) (Role, error) {
	var r Role
	if len(s) > maxARN {
		return r, fmt.Errorf("role ARN of %d characters; at most %d are allowed", len(s), maxARN)
	}
	parts := strings.SplitN(s, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" {
		return r, fmt.Errorf("%s is not a role ARN: expected arn:aws:iam::ACCOUNT:role/NAME", quote(s))
	}
	resource, ok := strings.CutPrefix(parts[5], "role/")
	switch {
	case !partitionRE.MatchString(parts[1]):
		return r, fmt.Errorf("%s has an unknown partition %s: expected aws, aws-cn or aws-us-gov", quote(s), quote(parts[1]))
	case parts[2] == "sts" && strings.HasPrefix(parts[5], "assumed-role/"):
		return r, fmt.Errorf("%s names a session: give the role itself, arn:%s:iam::%s:role/NAME", quote(s), parts[1], parts[4])
	case parts[2] != "iam" || parts[3] != "" || !ok:
		return r, fmt.Errorf("%s is not an IAM role: expected arn:aws:iam::ACCOUNT:role/NAME", quote(s))
	}
	account, err := ParseAccountID(parts[4])
	if err != nil {
		return r, err
	}
	slash := strings.LastIndexByte("/"+resource, '/')
	r = Role{Partition: parts[1], Account: account, Path: ("/" + resource)[:slash+1], Name: resource[slash:]}
	if err := r.check(); err != nil {
		return Role{}, err
	}
	return r, nil
}

// NewRole builds the ARN of a role from its parts; path may be empty for "/".
func NewRole(partition string, account AccountID, path, name string) (Role, error) {
	if path == "" {
		path = "/"
	}
	r := Role{Partition: partition, Account: account, Path: path, Name: name}
	if !partitionRE.MatchString(partition) {
		return Role{}, fmt.Errorf("unknown partition %s", quote(partition))
	}
	if _, err := ParseAccountID(string(account)); err != nil {
		return Role{}, err
	}
	return r, r.check()
}

func (r Role) check() error {
	switch {
	case !nameRE.MatchString(r.Name) || len(r.Name) > maxRoleName:
		return fmt.Errorf("%s is not a role name: 1 to %d of A-Z a-z 0-9 _ + = , . @ -", quote(r.Name), maxRoleName)
	case !pathRE.MatchString(r.Path):
		return fmt.Errorf("%s is not a role path: it must begin and end with / and hold printable ASCII", quote(r.Path))
	}
	return nil
}

// String returns the ARN; the empty string for the zero Role.
func (r Role) String() string {
	if r == (Role{}) {
		return ""
	}
	return "arn:" + r.Partition + ":iam::" + string(r.Account) + ":role" + r.Path + r.Name
}

// CheckSessionName checks a role session name against STS's own rule.
func CheckSessionName(s string) error {
	if len(s) < minSessionName || len(s) > maxSessionName || !sessionNameRE.MatchString(s) {
		return fmt.Errorf("%s is not a session name: %d to %d of A-Z a-z 0-9 _ + = , . @ -", quote(s), minSessionName, maxSessionName)
	}
	return nil
}

// ErrNoSessionName means that nothing usable was left of the text a session name was to be made of.
var ErrNoSessionName = errors.New("no character of it may stand in a session name")

// SessionName makes a valid session name out of s: characters STS forbids become "-", and what is too long is cut
// at the end. So put what must survive, such as a container's id, first or keep s short.
func SessionName(s string) (string, error) {
	b := []byte(s)
	useful := false
	for i, c := range b {
		if !sessionNameRE.Match(b[i : i+1]) {
			b[i] = '-'
		} else if c != '-' {
			useful = true
		}
	}
	b = b[:min(len(b), maxSessionName)]
	if !useful || len(b) < minSessionName {
		return "", fmt.Errorf("session name from %s: %w", quote(s), ErrNoSessionName)
	}
	return string(b), nil
}

// quote shows untrusted text without letting it fill the line.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
