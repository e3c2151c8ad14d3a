package facts

import (
	"strings"

	"taskrole/internal/diagnose"
)

// profiles reads a credentials or configuration file. Its values are masked while they are read.
func profiles(b []byte, config bool) map[string]diagnose.Profile {
	all := map[string]diagnose.Profile{}
	name := ""
	for line := range strings.Lines(string(b)) {
		nested := line != "" && (line[0] == ' ' || line[0] == '\t')
		line = strings.TrimSpace(line)
		switch {
		case line == "", line[0] == '#', line[0] == ';', nested:
			continue
		case line[0] == '[':
			name = section(line, config)
			if _, twice := all[name]; name != "" && !twice {
				all[name] = diagnose.Profile{} // also if it has nothing
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if name == "" || !ok {
			continue
		}
		p := all[name]
		note(&p, strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value))
		all[name] = p
	}
	return all
}

// section is the name of a profile, or "". In the configuration file all but default are called "profile NAME".
func section(line string, config bool) string {
	name, _, ok := strings.Cut(line[1:], "]")
	if !ok {
		return ""
	}
	name = strings.TrimSpace(name)
	if words := strings.Fields(name); config && len(words) == 2 && words[0] == "profile" {
		return clean(strings.Trim(words[1], `"'`), maxShown)
	}
	if config && name != "default" {
		return ""
	}
	return clean(name, maxShown)
}

func note(p *diagnose.Profile, key, value string) {
	set := value != ""
	switch key {
	case "aws_access_key_id":
		p.Kind, p.Masked = diagnose.Mask(value)
	case "aws_secret_access_key":
		p.Secret = set
	case "aws_session_token", "aws_security_token":
		p.Token = p.Token || set
	case "role_arn":
		p.RoleARN = clean(value, maxShown)
	case "source_profile":
		p.SourceProfile = clean(value, maxShown)
	case "credential_source":
		p.CredentialSource = clean(value, maxShown)
	case "web_identity_token_file":
		p.WebIdentity = clean(value, maxShown)
	case "sso_session", "sso_start_url":
		p.SSO = set
	case "credential_process":
		p.Process = set
	case "login_session":
		p.LogsIn = set
	case "region":
		p.Region = clean(value, maxShown)
	}
}
