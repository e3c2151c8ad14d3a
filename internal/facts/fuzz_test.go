package facts

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"taskrole/internal/diagnose"
)

// theSecret is in every input, in the place of a secret, and must not be in what comes out.
const theSecret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"

// fitting checks that what is shown holds no secret and nothing that a terminal takes for a command.
func fitting(t *testing.T, shown string) {
	t.Helper()
	if strings.Contains(shown, theSecret) {
		t.Fatalf("a secret is in %q", shown)
	}
	if i := strings.IndexFunc(shown, func(r rune) bool {
		return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}); i >= 0 {
		t.Fatalf("there is something for a terminal at %d in %q", i, shown)
	}
}

// FuzzProfiles: credentials and configuration files are read whatever is in them.
func FuzzProfiles(f *testing.F) {
	f.Add("[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\nregion=us-east-1\n", true)
	f.Add("[profile a b]\n[profile \"x\"]\nrole_arn=arn\x1b[2J\n\taws_secret_access_key=x\n[", true)
	f.Add("[default]\naws_access_key_id=AKIA00000000\x1b[2J\n", false)
	f.Add("\xff=\n[\u202e]\nsso_session==\n;#\n", false)
	f.Fuzz(func(t *testing.T, text string, config bool) {
		all := profiles([]byte(text+"\n[default]\naws_secret_access_key = "+theSecret+"\naws_session_token="+theSecret+"\n"), config)
		p := all["default"]
		if !p.Secret || !p.Token {
			t.Fatalf("the last profile is %+v", p)
		}
		fitting(t, fmt.Sprintf("%+v", all))
	})
}

// FuzzEnviron: any bytes may be a process's environment.
func FuzzEnviron(f *testing.F) {
	f.Add("AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\x00HTTP_PROXY=http://u:p@h:1\x00")
	f.Add("AWS_PROFILE=\x1b]0;x\x07\x00=\x00\x00AWS_CONTAINER_CREDENTIALS_FULL_URI=http://a@b/c?d=e#f")
	f.Add("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/0123456789abcdef01234567\x00NO_PROXY=,,")
	f.Fuzz(func(t *testing.T, text string) {
		// The first of two counts, so what must stay a secret comes first.
		secrets := "AWS_SECRET_ACCESS_KEY=" + theSecret + "\x00AWS_SESSION_TOKEN=" + theSecret + "\x00AWS_CONTAINER_AUTHORIZATION_TOKEN=" + theSecret + "\x00"
		facts := &diagnose.Facts{}
		r := environment(splitEnviron([]byte(secrets+text)), facts)
		if facts.Env["AWS_SECRET_ACCESS_KEY"].Length != len(theSecret) {
			t.Fatalf("%+v", facts.Env)
		}
		for _, v := range facts.Env {
			fitting(t, v.Text+" "+v.Masked+" "+string(v.Kind))
		}
		if target, ok := containerURL(r); ok && !strings.HasPrefix(target, "http://") {
			t.Fatalf("it would be asked at %q", target)
		}
	})
}

// FuzzAnswer: what an endpoint answers may be anything.
func FuzzAnswer(f *testing.F) {
	f.Add(`{"AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "Token": "x", "Expiration": "2026-01-01T00:00:00Z"`, 200)
	f.Add(`{"code": "not-this-container\u001b[2J", "message": "\u202e"`, 404)
	f.Add(`{"Code": 1, "AccessKeyId": ["x"]`, 200)
	f.Add("<html>", 503)
	f.Fuzz(func(t *testing.T, body string, status int) {
		a := diagnose.Answer{URL: "http://169.254.170.2/x", Outcome: diagnose.Answered, Status: status}
		examine(&a, []byte(body+`, "SecretAccessKey": "`+theSecret+`", "Token": "`+theSecret+`"}`))
		if status == 200 || strings.HasPrefix(body, "{") { // other answers are shown, as SDKs do: they hold no credentials
			fitting(t, a.Code+" "+a.Doc.Masked+" "+a.Doc.RoleARN+" "+a.Doc.Code)
		}
		fitting(t, strings.ReplaceAll(a.Message, theSecret, ""))
	})
}
