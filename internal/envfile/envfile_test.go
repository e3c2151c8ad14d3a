package envfile_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/envfile"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

var expires = time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)

func session(key, token, region string) envfile.Session {
	return envfile.Session{Region: region, Credentials: secret.Credentials{
		AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: secret.New(key), SessionToken: secret.New(token), Expires: expires, AccountID: "123456789012",
	}}
}

// want is the environment that every format but process must give.
func want(key, token, region string) map[string]string {
	m := map[string]string{
		"AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": key, "AWS_SESSION_TOKEN": token,
		"AWS_SECURITY_TOKEN": token, "AWS_CREDENTIAL_EXPIRATION": "2026-11-02T03:04:05Z",
	}
	if region != "" {
		maps.Copy(m, map[string]string{"AWS_REGION": region, "AWS_DEFAULT_REGION": region})
	}
	return m
}

func write(t *testing.T, f envfile.Format, s envfile.Session) string {
	t.Helper()
	b, err := envfile.Write(f, s, expires.Add(-time.Hour))
	if err != nil {
		t.Fatalf("%s: %v", f, err)
	}
	return string(b)
}

const (
	key   = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	token = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJ=="
)

func TestFormats(t *testing.T) {
	lines := func(pattern string) string {
		var b strings.Builder
		for _, nv := range [][2]string{
			{"AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE"},
			{"AWS_SECRET_ACCESS_KEY", key},
			{"AWS_SESSION_TOKEN", token},
			{"AWS_SECURITY_TOKEN", token},
			{"AWS_CREDENTIAL_EXPIRATION", "2026-11-02T03:04:05Z"},
			{"AWS_REGION", "eu-west-1"},
			{"AWS_DEFAULT_REGION", "eu-west-1"},
		} {
			b.WriteString(strings.NewReplacer("NAME", nv[0], "VALUE", nv[1]).Replace(pattern) + "\n")
		}
		return b.String()
	}
	for f, want := range map[envfile.Format]string{
		envfile.Shell:      lines("export NAME='VALUE'"),
		envfile.Fish:       lines("set -gx NAME 'VALUE'"),
		envfile.PowerShell: lines("$Env:NAME = 'VALUE'"),
		envfile.Docker:     lines("NAME=VALUE"),
		envfile.Dotenv:     lines("NAME=VALUE"),
		envfile.JSON: `{
  "AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE",
  "AWS_CREDENTIAL_EXPIRATION": "2026-11-02T03:04:05Z",
  "AWS_DEFAULT_REGION": "eu-west-1",
  "AWS_REGION": "eu-west-1",
  "AWS_SECRET_ACCESS_KEY": "` + key + `",
  "AWS_SECURITY_TOKEN": "` + token + `",
  "AWS_SESSION_TOKEN": "` + token + `"
}
`,
		envfile.Process: `{
  "Version": 1,
  "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
  "SecretAccessKey": "` + key + `",
  "SessionToken": "` + token + `",
  "Expiration": "2026-11-02T03:04:05Z",
  "AccountId": "123456789012"
}
`,
	} {
		if diff := cmp.Diff(want, write(t, f, session(key, token, "eu-west-1"))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f, diff)
		}
	}
}

func TestWithoutARegionNoneIsSet(t *testing.T) {
	for _, f := range envfile.Formats() {
		if got := write(t, f, session(key, token, "")); strings.Contains(got, "REGION") {
			t.Errorf("%s: %s", f, got)
		}
	}
}

func TestNothingPartialNorExpiredIsWritten(t *testing.T) {
	whole := session(key, token, "eu-west-1")
	for name, change := range map[string]func(*envfile.Session){
		"id": func(s *envfile.Session) { s.Credentials.AccessKeyID = "" }, "key": func(s *envfile.Session) { s.Credentials.SecretAccessKey = secret.New("") },
		"token": func(s *envfile.Session) { s.Credentials.SessionToken = secret.Value{} }, "end": func(s *envfile.Session) { s.Credentials.Expires = time.Time{} },
	} {
		for _, f := range envfile.Formats() {
			s := whole
			change(&s)
			if b, err := envfile.Write(f, s, expires.Add(-time.Hour)); fault.CodeOf(err) != fault.CredentialsNotReady || b != nil {
				t.Errorf("%s without the %s: %q, %v", f, name, b, err)
			}
		}
	}
	if b, err := envfile.Write(envfile.Shell, whole, expires); fault.CodeOf(err) != fault.CredentialsExpired || b != nil {
		t.Errorf("expired: %q, %v", b, err)
	}
	if _, err := envfile.Write("csh", whole, expires.Add(-time.Hour)); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "shell, docker, ") {
		t.Errorf("unknown format: %v", err)
	}
}

// readers understand a format as its programs do. nil: it is tried with the real ones, in shells_test.go.
var readers = map[envfile.Format]func(string) map[string]string{
	envfile.JSON: func(s string) map[string]string {
		var m map[string]string
		if json.Unmarshal([]byte(s), &m) != nil {
			return nil
		}
		return m
	},
	// As in docker/cli: bufio.Scanner by lines, which takes a carriage return off the end; the name ends at the first =.
	envfile.Docker: func(s string) map[string]string {
		m := map[string]string{}
		for lines := bufio.NewScanner(strings.NewReader(s)); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), "=")
			m[name] = value
		}
		return m
	},
	envfile.Dotenv: func(s string) map[string]string {
		m := map[string]string{}
		for lines := bufio.NewScanner(strings.NewReader(s)); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), "=")
			if strings.HasPrefix(value, "'") {
				value = strings.Split(value, "'")[1]
			} else if strings.ContainsAny(value, " #\"'`$\\\t") {
				return nil
			}
			m[name] = value
		}
		return m
	},
	envfile.Shell:      func(s string) map[string]string { return unquote(s, "export ", "=", posix) },
	envfile.Fish:       func(s string) map[string]string { return unquote(s, "set -gx ", " ", fish) },
	envfile.PowerShell: func(s string) map[string]string { return unquote(s, "$Env:", " = ", powershell) },
}

// unquote reads lines of BEFORE NAME BETWEEN QUOTED, where quoted may have line breaks. word cuts one off.
func unquote(s, before, between string, word func(string) (value, rest string, ok bool)) map[string]string {
	m := map[string]string{}
	for s != "" {
		s, _ = strings.CutPrefix(s, before)
		name, rest, ok := strings.Cut(s, between)
		if !ok {
			return nil
		}
		value, rest, ok := word(rest)
		if !ok || !strings.HasPrefix(rest, "\n") {
			return nil
		}
		m[name], s = value, rest[1:]
	}
	return m
}

func posix(s string) (value, rest string, ok bool) {
	for !strings.HasPrefix(s, "\n") && s != "" {
		switch {
		case strings.HasPrefix(s, `\'`):
			value, s = value+"'", s[2:]
		case strings.HasPrefix(s, "'"):
			inside, after, closed := strings.Cut(s[1:], "'")
			if !closed {
				return "", "", false
			}
			value, s = value+inside, after
		default:
			return "", "", false
		}
	}
	return value, s, true
}

func fish(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '\'' {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\'':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '\\' || s[i+1] == '\''):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}

func powershell(s string) (value, rest string, ok bool) {
	quotes := "'‘’‚‛"
	all := []rune(s)
	if len(all) == 0 || all[0] != '\'' {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(all); i++ {
		if !strings.ContainsRune(quotes, all[i]) {
			b.WriteRune(all[i])
			continue
		}
		if i+1 < len(all) && strings.ContainsRune(quotes, all[i+1]) {
			b.WriteRune(all[i])
			i++
			continue
		}
		return b.String(), string(all[i+1:]), true
	}
	return "", "", false
}

// Whatever AWS gives: what a reader of the format takes out is what was put in, or the format refuses to say it.
func FuzzWrite(f *testing.F) {
	for _, s := range nasty {
		f.Add(s, "token")
		f.Add("key", s)
	}
	f.Fuzz(func(t *testing.T, key, token string) {
		if key == "" || token == "" {
			return
		}
		for format, read := range readers {
			b, err := envfile.Write(format, session(key, token, "eu-west-1"), expires.Add(-time.Hour))
			if err != nil {
				if sayable := !strings.ContainsAny(key+token, "\x00\r\n'\\") && utf8.ValidString(key) && utf8.ValidString(token); sayable {
					t.Errorf("%s: %v", format, err)
				}
				continue
			}
			if diff := cmp.Diff(want(key, token, "eu-west-1"), read(string(b))); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", format, b, diff)
			}
		}
	})
}

// nasty are values that AWS does not give today.
var nasty = []string{
	key, "it's", `back\slash`, `\'`, `'; touch /tmp/owned; '`, "$(id)", "`id`", `"double"`, "line\nbreak", "cr\r", "tab\t", " blanks ", "#hash", "=", "$Env:X", "’; id",
	"名前", "!history", "%percent%", "*?[a]~{a,b}", "\x7f\x1b[31m",
}
