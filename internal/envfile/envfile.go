// Package envfile writes credentials as the environment variables that AWS SDKs read, in the words of a shell, of
// docker's --env-file, of dotenv files, or as the answer of a credential_process.
//
// It is pure: values in, text out, and nothing written anywhere. It refuses credentials that are not whole, because an
// SDK signs with what it finds, and a value that a format has no way to say: docker's file knows no quotes, so a line
// break in a value would be another variable. AWS's own values need no quoting at all today; what they will be is
// AWS's to decide.
package envfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// Format is one way to write them.
type Format string

// The formats.
const (
	Shell      Format = "shell"      // for eval in sh, dash, bash, zsh, ksh
	Docker     Format = "docker"     // for docker run --env-file
	JSON       Format = "json"       // one object
	Dotenv     Format = "dotenv"     // a .env file
	Process    Format = "process"    // the answer of credential_process in ~/.aws/config
	PowerShell Format = "powershell" // for Invoke-Expression
	Fish       Format = "fish"       // for source
)

// Formats are all of them, the default first.
func Formats() []Format { return []Format{Shell, Docker, JSON, Dotenv, Process, PowerShell, Fish} }

// Session is what is written.
type Session struct {
	Credentials secret.Credentials
	Region      string // or empty: then the region variables are left out
}

// variable is one variable of an environment.
type variable struct{ name, value string }

// stamp is how times are written: RFC 3339, UTC, Z, whole seconds, as AWS writes them.
const stamp = "2006-01-02T15:04:05Z"

func (s Session) variables() []variable {
	c := s.Credentials
	all := []variable{
		{"AWS_ACCESS_KEY_ID", c.AccessKeyID},
		{"AWS_SECRET_ACCESS_KEY", c.SecretAccessKey.Reveal()},
		{"AWS_SESSION_TOKEN", c.SessionToken.Reveal()},
		{"AWS_SECURITY_TOKEN", c.SessionToken.Reveal()}, // boto 2 and its contemporaries
		{"AWS_CREDENTIAL_EXPIRATION", c.Expires.UTC().Format(stamp)},
	}
	if s.Region != "" {
		all = append(all, variable{"AWS_REGION", s.Region}, variable{"AWS_DEFAULT_REGION", s.Region})
	}
	return all
}

// Write returns the session in the format, whole.
func Write(f Format, s Session, now time.Time) ([]byte, error) {
	if !s.Credentials.Complete() {
		return nil, fault.New(fault.CredentialsNotReady, "the credentials are not complete", "try again in a moment")
	}
	if !now.Before(s.Credentials.Expires) {
		return nil, fault.New(fault.CredentialsExpired,
			"the credentials expired at "+s.Credentials.Expires.UTC().Format(time.RFC3339), "check this host's clock")
	}
	if f == Process {
		return process(s)
	}
	all := s.variables()
	for _, v := range all {
		if strings.Contains(v.value, "\x00") || !utf8.ValidString(v.value) {
			return nil, unsayable(v.name, f)
		}
	}
	if f == JSON {
		object := map[string]string{}
		for _, v := range all {
			object[v.name] = v.value
		}
		return marshal(object)
	}
	line, err := lineOf(f)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, v := range all {
		text, ok := line(v)
		if !ok {
			return nil, unsayable(v.name, f)
		}
		b.WriteString(text + "\n")
	}
	return b.Bytes(), nil
}

func unsayable(name string, f Format) error {
	return fault.New(fault.Internal, fmt.Sprintf("the value of %s cannot be said in the format %s", name, f),
		"take another format, such as json")
}

// lineOf returns what writes one variable, if the format can say its value.
func lineOf(f Format) (func(variable) (string, bool), error) {
	switch f {
	case Shell:
		return func(v variable) (string, bool) {
			return "export " + v.name + "='" + strings.ReplaceAll(v.value, "'", `'\''`) + "'", true
		}, nil
	case Fish:
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		return func(v variable) (string, bool) {
			return "set -gx " + v.name + " '" + quote.Replace(v.value) + "'", true
		}, nil
	case PowerShell:
		// It takes typographic quotation marks for the plain one.
		quote := strings.NewReplacer("'", "''", "‘", "‘‘", "’", "’’", "‚", "‚‚", "‛", "‛‛")
		return func(v variable) (string, bool) { return "$Env:" + v.name + " = '" + quote.Replace(v.value) + "'", true }, nil
	case Docker:
		return docker, nil
	case Dotenv:
		return dotenv, nil
	default:
		return nil, Known(f)
	}
}

// Known returns a fault that names the formats if f is none of them.
func Known(f Format) error {
	if slices.Contains(Formats(), f) {
		return nil
	}
	return fault.New(fault.Usage, fmt.Sprintf("there is no format %q", string(f)), "use "+names())
}

func names() string {
	var words []string
	for _, f := range Formats() {
		words = append(words, string(f))
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// docker writes NAME=VALUE: docker takes everything up to the end of the line as it is, and the end may be a carriage
// return before the line feed.
func docker(v variable) (string, bool) {
	return v.name + "=" + v.value, !strings.ContainsAny(v.value, "\r\n")
}

// dotenv writes what all readers of such files take for the same: they agree on plain values, and on single quotes
// around what has neither a quote nor a backslash nor a line break.
func dotenv(v variable) (string, bool) {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=.:@_-"
	if strings.Trim(v.value, plain) == "" {
		return v.name + "=" + v.value, true
	}
	return v.name + "='" + v.value + "'", !strings.ContainsAny(v.value, "'\\\r\n")
}

// process is version 1 of the protocol of credential_process ("Sourcing credentials with an external process", AWS SDKs
// and tools reference guide). The account is for SDKs that want to name it in endpoints.
func process(s Session) ([]byte, error) {
	c := s.Credentials
	for _, v := range s.variables() {
		if !utf8.ValidString(v.value) {
			return nil, unsayable(v.name, Process)
		}
	}
	return marshal(struct {
		Version         int
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string
		Expiration      string
		AccountID       string `json:"AccountId,omitempty"`
	}{1, c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), c.Expires.UTC().Format(stamp), c.AccountID})
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("marshal credentials: %w", err)
	}
	return b.Bytes(), nil
}
