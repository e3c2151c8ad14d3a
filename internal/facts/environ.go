package facts

import (
	"net/url"
	"regexp"
	"strings"

	"taskrole/internal/diagnose"
	"taskrole/internal/secret"
)

// raw is what the process's own requests are made of. It never leaves this package.
type raw struct {
	text  map[string]string // of variables that are no secrets, as they are
	token secret.Value      // AWS_CONTAINER_AUTHORIZATION_TOKEN
	// header is what is in the file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE.
	header secret.Value
	home   string
}

// open are the variables whose text may be seen. Of all others of AWS only the length leaves this package.
var open = map[string]bool{
	"HOME": true, "TASKROLE": true, "AWS_REGION": true, "AWS_DEFAULT_REGION": true, "AWS_PROFILE": true, "AWS_DEFAULT_PROFILE": true,
	"AWS_SHARED_CREDENTIALS_FILE": true, "AWS_CONFIG_FILE": true, "AWS_SDK_LOAD_CONFIG": true, "AWS_WEB_IDENTITY_TOKEN_FILE": true,
	"AWS_ROLE_ARN": true, "AWS_ROLE_SESSION_NAME": true, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": true,
	"AWS_CONTAINER_CREDENTIALS_FULL_URI": true, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": true, "AWS_EC2_METADATA_DISABLED": true,
	"AWS_EC2_METADATA_V1_DISABLED": true, "AWS_EC2_METADATA_SERVICE_ENDPOINT": true, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": true,
	"AWS_CREDENTIAL_EXPIRATION": true, "HTTP_PROXY": true, "http_proxy": true, "HTTPS_PROXY": true, "https_proxy": true,
	"NO_PROXY": true, "no_proxy": true,
}

// keyIDs hold access key ids, which are masked.
var keyIDs = map[string]bool{"AWS_ACCESS_KEY_ID": true, "AWS_ACCESS_KEY": true, "AMAZON_ACCESS_KEY_ID": true}

// secrets are further variables that matter by being there.
var secrets = map[string]bool{"SECRET_ACCESS_KEY": true, "AMAZON_SECRET_ACCESS_KEY": true}

// environment puts what AWS clients read of KEY=VALUE lines into f, masked. As in getenv(3), the first of two counts.
func environment(lines []string, f *diagnose.Facts) *raw {
	r := &raw{text: map[string]string{}}
	f.Env = map[string]diagnose.Var{}
	tokens := map[string]secret.Value{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, "=")
		if _, twice := f.Env[name]; !ok || twice || !open[name] && !keyIDs[name] && !secrets[name] && !strings.HasPrefix(name, "AWS_") {
			continue
		}
		v := diagnose.Var{Length: len(value)}
		switch {
		case keyIDs[name]:
			v.Kind, v.Masked = diagnose.Mask(value)
		case open[name]:
			r.text[name], v.Text = value, shown(name, value)
		case name == "AWS_CONTAINER_AUTHORIZATION_TOKEN":
			r.token = secret.New(value)
		case name == "AWS_SESSION_TOKEN", name == "AWS_SECURITY_TOKEN":
			tokens[name] = secret.New(value)
		}
		f.Env[name] = v
	}
	f.TokensDiffer = len(tokens) == 2 && !tokens["AWS_SESSION_TOKEN"].Equal(tokens["AWS_SECURITY_TOKEN"]) //nolint:mnd // both
	return r
}

// longRE is a part of a path that names a task's credentials on ECS: who knows it has them.
var longRE = regexp.MustCompile(`[0-9a-fA-F-]{24,}`)

// maxShown bounds what a report repeats of a variable.
const maxShown = 300

// shown is a value without what may be secret in it.
func shown(name, value string) string {
	if strings.HasSuffix(strings.ToLower(name), "_proxy") && !strings.EqualFold(name, "no_proxy") || strings.HasSuffix(name, "_FULL_URI") ||
		name == "AWS_EC2_METADATA_SERVICE_ENDPOINT" {
		value = withoutUser(value)
	}
	if strings.HasSuffix(name, "_URI") {
		value = longRE.ReplaceAllString(value, "…")
	}
	return clean(value, maxShown)
}

// withoutUser leaves a URL's name and password out, and its query.
func withoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	if u.Host == "" && strings.Contains(s, "@") {
		return "(not a URL)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// clean makes untrusted text fit for a terminal, and not longer than most: no commands, no lines of its own, and no
// letters that change the order of others.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfffd:
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return s
}

func splitEnviron(b []byte) []string {
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// Recorded puts an environment that somebody wrote down into f, masked.
func Recorded(lines []secret.Value, f *diagnose.Facts) {
	plain := make([]string, 0, len(lines))
	for _, l := range lines {
		plain = append(plain, l.Reveal())
	}
	environment(plain, f)
}

// keyRE is an access key id in a text.
var keyRE = regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{12,28}\b`)

// KeyIDs returns the access key ids in a text, masked.
func KeyIDs(text secret.Value) []diagnose.Var {
	var found []diagnose.Var
	for _, id := range keyRE.FindAllString(text.Reveal(), -1) {
		v := diagnose.Var{Length: len(id)}
		v.Kind, v.Masked = diagnose.Mask(id)
		found = append(found, v)
	}
	return found
}
