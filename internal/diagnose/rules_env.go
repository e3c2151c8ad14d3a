package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// credentialsPartial looks at the usual names: the others are for old programs.
func credentialsPartial(f *Facts) *Finding {
	key, secret := f.has(envKey), f.has(envSecret)
	if key == secret {
		return f.partialProfile()
	}
	there, not := envKey, envSecret
	if secret {
		there, not = envSecret, envKey
	}
	return &Finding{
		Severity: Error, What: there + " is set and " + not + " is not",
		Evidence: []string{"environment: " + there + " is set, " + not + " is " + f.lack(not), "Python stops with PartialCredentialsError, the others skip the pair"},
		Fix:      "set all of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or none of them",
		Commands: f.instead(),
	}
}

// partialProfile is the same in a file: a profile that is used has a key id and no secret.
func (f *Facts) partialProfile() *Finding {
	name, path := "", ""
	hit := which(f, func(l look) bool {
		n, _ := l.profileName()
		for _, file := range l.files() {
			if p, ok := file.Profiles[n]; ok && p.Kind != NoKey && !p.Secret && reaches(f, l.sdk, inFiles.name) {
				name, path = n, file.Path
				return true
			}
		}
		return false
	})
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: fmt.Sprintf("profile %q has a key id and no secret", name), Affects: hit,
		Evidence: []string{fmt.Sprintf("%s: profile %q has no aws_secret_access_key", path, name), "Python and Go v2 stop there, the others skip the profile"},
		Fix:      "write all three values into the profile, or take it out", Commands: append(f.mounts(path), f.instead()...),
	}
}

// lack says how a variable is not there.
func (f *Facts) lack(name string) string {
	if f.set(name) {
		return "empty"
	}
	return "not set"
}

// pair says whether both usual key variables are set, that is, whether the environment wins for most.
func (f *Facts) pair() bool { return f.has(envKey) && f.has(envSecret) }

func sessionMissing(f *Facts) *Finding {
	if !f.pair() {
		return f.bareProfile()
	}
	if f.Env[envKey].Kind != Temporary || f.has(envSession) || f.has(envSecurity) {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the temporary key " + f.Env[envKey].Masked + " is without its session token, and every call with it fails",
		Evidence: []string{
			"environment: AWS_ACCESS_KEY_ID begins with ASIA, AWS_SESSION_TOKEN is " + f.lack(envSession),
			"S3 says InvalidAccessKeyId, STS InvalidClientTokenId, DynamoDB UnrecognizedClientException, EC2 AuthFailure",
		},
		Fix:      "give all three values, or better none: they end with the session, while a task role renews itself",
		Commands: append([]string{f.cli() + " run -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY -e AWS_SESSION_TOKEN " + f.image()}, f.instead()...),
	}
}

// bareProfile is the same in a file: a profile that wins has a temporary key without its token.
func (f *Facts) bareProfile() *Finding {
	x := &Finding{Severity: Error}
	x.Affects = which(f, func(l look) bool {
		c := ChainOf(f, l.sdk)
		for _, file := range l.files() {
			p, ok := file.Profiles[c.Detail]
			if c.Source != FromFile || !ok || !p.Secret || p.Kind == NoKey {
				continue
			}
			if p.Kind != Temporary || p.Token {
				return false
			}
			x.What = "the temporary key " + p.Masked + " in a file is without its session token, and every call with it fails"
			x.Evidence = []string{fmt.Sprintf("%s: profile %q has no aws_session_token", file.Path, c.Detail), "S3 says InvalidAccessKeyId, STS InvalidClientTokenId, DynamoDB UnrecognizedClientException, EC2 AuthFailure"}
			x.Fix, x.Commands = "write all three values into the profile, or better none", append(f.mounts(file.Path), f.instead()...)
			return true
		}
		return false
	})
	if len(x.Affects) == 0 {
		return nil
	}
	return x
}

func sessionUnexpected(f *Facts) *Finding {
	if !f.pair() || f.Env[envKey].Kind != LongLived || !f.has(envSession) && !f.has(envSecurity) {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the long-lived key " + f.Env[envKey].Masked + " is sent with a session token that belongs to another key",
		Evidence: []string{"environment: AWS_ACCESS_KEY_ID begins with AKIA, and a session token is set", "S3 says InvalidToken, STS InvalidClientTokenId"},
		Fix:      "unset the token, and better the keys too",
		Commands: append(f.unset(envSession, envSecurity), f.instead()...),
	}
}

// sessionStale: Python prefers the old variable, everybody else knows only the new one.
func sessionStale(f *Facts) *Finding {
	if !f.pair() || !f.has(envSecurity) {
		return nil
	}
	python := []SDK{Botocore, CLIv2}
	switch {
	case f.has(envSession) && f.TokensDiffer:
		return &Finding{
			Severity: Error, What: "AWS_SECURITY_TOKEN and AWS_SESSION_TOKEN differ, and Python uses the old one",
			Evidence: []string{"environment: both are set, with different values; botocore reads AWS_SECURITY_TOKEN first"},
			Affects:  python, Fix: "unset AWS_SECURITY_TOKEN, which nothing needs", Commands: f.unset(envSecurity),
		}
	case !f.has(envSession) && f.Env[envKey].Kind == Temporary:
		return &Finding{
			Severity: Error, What: "the session token is only in AWS_SECURITY_TOKEN, which nobody but Python reads",
			Evidence: []string{"environment: AWS_SECURITY_TOKEN is set, AWS_SESSION_TOKEN is " + f.lack(envSession)},
			Affects:  which(f, func(l look) bool { return !l.security }),
			Fix:      "name it AWS_SESSION_TOKEN", Commands: []string{`export AWS_SESSION_TOKEN="$AWS_SECURITY_TOKEN"`},
		}
	}
	return nil
}

// margin is how near its end a credential counts as expired: the clocks are never quite the same.
const margin = 5 * time.Second

func credentialsExpired(f *Facts) *Finding {
	now := f.Host.Now
	if now.IsZero() {
		return nil
	}
	if t, err := time.Parse(time.RFC3339, f.text(envExpiration)); err == nil && f.pair() && t.Before(now.Add(-margin)) {
		return &Finding{
			Severity: Error, What: "the credentials in the environment ended " + ago(now.Sub(t)),
			Evidence: []string{"environment: AWS_CREDENTIAL_EXPIRATION=" + f.text(envExpiration) + ", now it is " + now.UTC().Format(time.RFC3339)},
			Fix:      "a copied session ends; give the container a role that renews itself", Commands: f.instead(),
		}
	}
	where, ends := f.Container.URL, f.Container.Doc.Expires
	if ends.IsZero() || !ends.Before(now.Add(-margin)) {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the credentials that " + where + " serves ended " + ago(now.Sub(ends)),
		Evidence: []string{where + ": Expiration " + ends.UTC().Format(time.RFC3339) + ", now it is " + now.UTC().Format(time.RFC3339)},
		Fix:      "whoever serves them has stopped renewing: restart it, and check the host's clock",
		Commands: []string{"date -u", "systemctl status taskrole amazon-ecs-agent"},
	}
}

func ago(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day {
		return fmt.Sprintf("%d days ago", d/day)
	}
	return d.Round(time.Second).String() + " ago"
}

func profileMissing(f *Facts) *Finding {
	var hit []SDK
	name, variable := "", ""
	for _, s := range SDKs() {
		l := f.as(s)
		n, v := l.profileName()
		if v == "" || l.Credentials.State == NotLooked || slices.ContainsFunc(l.files(), func(f File) bool { _, ok := f.Profiles[n]; return ok }) {
			continue
		}
		if r := l.env(); r.verdict == Wins && s != Botocore && s != CLIv2 {
			continue
		}
		if r := l.profile(); r.verdict == Stops {
			hit, name, variable = append(hit, s), n, v
		}
	}
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: fmt.Sprintf("%s=%s names a profile that is in no file", variable, name),
		Evidence: []string{f.Credentials.about(), f.Config.about()},
		Affects:  hit, Fix: "unset the variable, or mount the file that has the profile", Commands: f.unset(variable),
	}
}

// about says what was found in a file with profiles.
func (f File) about() string {
	if f.State != Read {
		return f.trouble()
	}
	names := make([]string, 0, len(f.Profiles))
	for n := range f.Profiles {
		names = append(names, n)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return f.Path + " has no profiles"
	}
	return f.Path + " has: " + strings.Join(names, ", ")
}

func identityIncomplete(f *Facts) *Finding {
	if !f.has(envIdentity) || f.pair() {
		return nil
	}
	x := &Finding{Severity: Error, Fix: "set both variables and mount the token, or unset both", Commands: f.unset(envIdentity, envRoleARN)}
	switch {
	case !f.has(envRoleARN):
		x.What = "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN"
		x.Evidence = []string{"environment: AWS_ROLE_ARN is " + f.lack(envRoleARN)}
	case f.WebIdentity.State == Read && f.WebIdentity.Empty:
		x.What, x.Evidence = "the web identity token is empty", []string{f.WebIdentity.Path + " has no content"}
	case f.WebIdentity.State == Read, f.WebIdentity.State == NotLooked:
		return nil
	default:
		x.What, x.Evidence = fmt.Sprintf("the web identity token cannot be read by user %d", f.Subject.UID), []string{f.WebIdentity.trouble()}
		x.Fix = "mount the token so that this user may read it, or unset both variables"
		x.Commands = append(f.mounts(f.WebIdentity.Path), x.Commands...)
	}
	return x
}

func uriEmpty(f *Facts) *Finding {
	for _, v := range []string{envRelative, envFull} {
		if f.set(v) && !f.has(v) {
			hit := which(f, func(l look) bool { return l.emptyCounts })
			return &Finding{
				Severity: Error, What: v + " is set but empty, which Python, Rust, Ruby and Java 1 do not take for unset",
				Evidence: []string{"environment: " + v + "= (0 characters)"}, Affects: hit,
				Fix: "unset it: an empty value is not the same", Commands: f.unset(v),
			}
		}
	}
	return nil
}

func uriMalformed(f *Facts) *Finding {
	v := f.text(envRelative)
	if v == "" || strings.HasPrefix(v, "/") {
		return nil
	}
	return &Finding{
		Severity: Error, What: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with a slash",
		Evidence: []string{"environment: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + v + ", so the host becomes 169.254.170.2" + v},
		Fix:      "begin it with /", Commands: []string{"export AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + quote("/"+v)},
	}
}

func fullRefused(f *Facts) *Finding {
	v := f.text(envFull)
	if v == "" || f.pair() || f.has(envRelative) {
		return nil
	}
	hit := which(f, func(l look) bool {
		return l.refuses(v) != ""
	})
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the host in AWS_CONTAINER_CREDENTIALS_FULL_URI is refused by " + list(hit),
		Evidence: []string{"environment: AWS_CONTAINER_CREDENTIALS_FULL_URI=" + v, hit[0].Title() + ": " + f.as(hit[0]).refuses(v)},
		Affects:  hit, Fix: "use the relative URI, https, or a loopback address, which all take", Commands: f.instead(),
	}
}

func tokenNewline(f *Facts) *Finding {
	if f.TokenFile.State != Read || !f.TokenFile.Newline || !f.has(envFull) && !f.has(envRelative) {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the authorization token's file ends in a line break, which becomes part of the token",
		Evidence: []string{f.TokenFile.Path + " holds a line break"},
		Affects:  which(f, func(l look) bool { return !l.trims }),
		Fix:      "write it without one, where it is mounted from", Commands: append(f.mounts(f.TokenFile.Path), `printf %s "$TOKEN" > FILE`),
	}
}

func tokenUnreadable(f *Facts) *Finding {
	s := f.TokenFile.State
	if s == NotLooked || s == Read && !f.TokenFile.Empty || !f.has(envFull) && !f.has(envRelative) {
		return nil
	}
	x := &Finding{
		Severity: Error, What: fmt.Sprintf("the authorization token cannot be read by user %d", f.Subject.UID),
		Evidence: []string{f.TokenFile.trouble()}, Fix: "mount the file so that this user may read it",
		Commands: f.mounts(f.TokenFile.Path),
	}
	if s == Read {
		x.What, x.Evidence = "the authorization token's file is empty", []string{f.TokenFile.Path + " has no content"}
	}
	return x
}

// linkLocal are the addresses that no proxy may have.
const linkLocal = "169.254.169.254,169.254.170.2,169.254.170.23,fd00:ec2::254,fd00:ec2::23,127.0.0.1"

// proxyTakes looks only where the endpoint is needed: a proxy is nothing wrong by itself.
func proxyTakes(f *Facts) *Finding {
	host := f.metadataHost()
	var hit []SDK
	switch v := f.uriFor(traits{}); {
	case f.pair():
		return nil
	case v == envRelative:
		host = "169.254.170.2"
	case v == envFull:
		host = hostOf(f.text(envFull))
	}
	imds := f.uriFor(traits{}) == ""
	hit = which(f, func(l look) bool {
		c := ChainOf(f, l.sdk)
		reaches := slices.ContainsFunc(c.Steps, func(s Step) bool { return strings.Contains(s.Why, "goes through") })
		return reaches && (imds && l.proxyIMDS || !imds && l.proxyContainer)
	})
	proxy := f.proxyOf(host) // the hits are those it concerns
	if proxy == "" || len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: proxy + " takes the requests for credentials along: they fail, or the proxy sees the secrets",
		Evidence: []string{"environment: " + proxy + "=" + f.text(proxy) + ", and NO_PROXY does not name " + host + " literally"},
		Affects:  hit, Fix: "except the link-local addresses, each by itself: Python knows no prefixes there",
		Commands: []string{`export NO_PROXY="$NO_PROXY,` + linkLocal + `"; export no_proxy="$NO_PROXY"`, f.run("-e NO_PROXY=" + linkLocal + " -e no_proxy=" + linkLocal)},
	}
}

func modeInvalid(f *Facts) *Finding {
	v := f.text(envMode)
	if v == "" || v == "IPv4" || v == "IPv6" {
		return nil
	}
	hit := []SDK{JSv3, JSv2}
	if !strings.EqualFold(v, "IPv4") && !strings.EqualFold(v, "IPv6") {
		hit = append(hit, Botocore, CLIv2, GoV2, GoV1)
	}
	return &Finding{
		Severity: Error, What: "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE must be IPv4 or IPv6, in these letters",
		Evidence: []string{"environment: AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=" + v, "JavaScript: Unsupported endpoint mode: " + v + ". Select from IPv4,IPv6"},
		Affects:  hit, Fix: "write it as IPv4 or IPv6, or unset it", Commands: f.unset(envMode),
	}
}

func partitionMismatch(f *Facts) *Finding {
	region := f.text("AWS_REGION")
	if region == "" {
		region = f.text("AWS_DEFAULT_REGION")
	}
	role, from := f.Role.ARN, "the role"
	for _, x := range [][2]string{{f.Container.Doc.RoleARN, f.Container.URL}, {f.text(envRoleARN), "environment: AWS_ROLE_ARN"}} {
		if role == "" && x[0] != "" && (x[1] != "environment: AWS_ROLE_ARN" || f.has(envIdentity)) {
			role, from = x[0], x[1]
		}
	}
	parts := strings.SplitN(role, ":", 3)
	if region == "" || len(parts) < 3 || parts[1] == partition(region) || f.pair() {
		return nil
	}
	return &Finding{
		Severity: Error, What: fmt.Sprintf("the role is of partition %s and the region %s of partition %s: no credentials work in both", parts[1], region, partition(region)),
		Evidence: []string{from + ": " + role, "environment: region " + region},
		Fix:      "use a region of the role's partition, or a role of the region's", Commands: []string{"aws sts get-caller-identity --region REGION"},
	}
}

// partition is that of a region, by its name.
func partition(region string) string {
	for prefix, p := range map[string]string{"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b", "eusc-": "aws-eusc"} {
		if strings.HasPrefix(region, prefix) {
			return p
		}
	}
	return "aws"
}
