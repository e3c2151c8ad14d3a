package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Source is where credentials come from.
type Source string

// The sources.
const (
	FromEnv         Source = "environment"
	FromFile        Source = "file"
	FromWebIdentity Source = "web identity"
	FromTool        Source = "program or login of a profile" // credential_process, SSO
	FromContainer   Source = "container endpoint"
	FromIMDS        Source = "instance metadata"
	FromNowhere     Source = "nowhere"
)

// Verdict is what one step comes to.
type Verdict string

// The verdicts.
const (
	Wins   Verdict = "wins"   // its credentials are used
	Fails  Verdict = "fails"  // and the next step is tried
	Stops  Verdict = "stops"  // it fails, and nothing else is tried
	Absent Verdict = "absent" // there is nothing for it to do
	Beaten Verdict = "beaten" // not reached: an earlier step won or stopped
)

// Step is one place where an SDK looks.
type Step struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why"`
}

// Chain is what one SDK does in this process.
type Chain struct {
	SDK    SDK    `json:"sdk"`
	Steps  []Step `json:"steps"`
	Source Source `json:"source"`
	// Detail says which: a profile, a role's name, an address.
	Detail string `json:"detail,omitempty"`
	// Sees is what the application's user reads if there are no credentials; or "".
	Sees string `json:"sees,omitempty"`
}

// result is a step's answer.
type result struct {
	verdict Verdict
	source  Source
	detail  string
	why     string
	sees    string
}

func absent(why string) result { return result{verdict: Absent, why: why} }

// place is a step of a chain.
type place struct {
	name string
	look func(look) result
}

// look is what a step looks with.
type look struct {
	*Facts

	sdk SDK
	traits
}

// The places in which SDKs look.
var (
	inEnv      = place{"environment variables", look.env}
	inIdentity = place{"web identity of the environment", look.identity}
	inFiles    = place{"profile in ~/.aws", look.profile}
	inContain  = place{"container endpoint", look.container}
	inIMDS     = place{"instance metadata (IMDS)", look.imds}
)

// orders are the chains. Steps that need an option in the program's source are left out.
var orders = map[SDK][]place{
	Botocore: {inEnv, inIdentity, inFiles, inContain, inIMDS},
	CLIv2:    {inEnv, inIdentity, inFiles, inContain, inIMDS},
	GoV2:     {inEnv, inIdentity, inFiles, inContain, inIMDS},
	GoV1:     {inEnv, inIdentity, inFiles, inContain, inIMDS},
	JSv3:     {inEnv, inFiles, inIdentity, inContain, inIMDS},
	JSv2:     {inEnv, inFiles, inContain, inIdentity, inIMDS},
	JavaV2:   {inEnv, inIdentity, inFiles, inContain, inIMDS},
	JavaV1:   {inEnv, inIdentity, inFiles, inContain, inIMDS},
	Rust:     {inEnv, inFiles, inIdentity, inContain, inIMDS},
	Ruby:     {inEnv, inIdentity, inFiles, inContain, inIMDS},
	PHP:      {inEnv, inIdentity, inFiles, inContain, inIMDS},
	DotNet:   {inEnv, inIdentity, inFiles, inContain, inIMDS},
	Cpp:      {inEnv, inFiles, inIdentity, inContain, inIMDS},
	CRT:      {inEnv, inFiles, inIdentity, inContain, inIMDS},
	IMDSv1:   {inIMDS},
}

// ChainOf says what one SDK does with these facts.
func ChainOf(f *Facts, sdk SDK) Chain {
	l := f.as(sdk)
	c := Chain{SDK: sdk, Source: FromNowhere}
	ended := ""
	for i, p := range orders[sdk] {
		name := fmt.Sprintf("%d. %s", i+1, p.name)
		if ended != "" {
			c.Steps = append(c.Steps, Step{Name: name, Verdict: Beaten, Why: ended})
			continue
		}
		r := p.look(l)
		c.Steps = append(c.Steps, Step{Name: name, Verdict: r.verdict, Why: r.why})
		switch r.verdict {
		case Wins:
			c.Source, c.Detail, ended = r.source, r.detail, "not reached: step "+fmt.Sprint(i+1)+" has credentials"
		case Stops:
			c.Sees, ended = r.sees, "not reached: step "+fmt.Sprint(i+1)+" ends the search"
		case Fails:
			c.Sees = cmp.Or(r.sees, c.Sees)
		case Absent, Beaten:
		}
	}
	switch {
	case c.Source != FromNowhere:
		c.Sees = ""
	case c.Sees == "":
		c.Sees = l.nothing
	}
	return c
}

// as is the look of one SDK at these facts, in the version that was found.
func (f *Facts) as(sdk SDK) look {
	l := look{Facts: f, sdk: sdk, traits: specs[sdk]}
	l.onlyV1 = l.onlyV1 || f.beforeTokens(sdk)
	if hosts, ok := oldHosts[sdk]; ok && f.before(sdk, hosts.since) {
		l.hosts = literalHosts(hosts.names)
	}
	return l
}

// Chains are those of the SDKs that are in question, and SDKs that do the same are still separate.
func Chains(f *Facts) []Chain {
	list := f.SDKs
	if len(list) == 0 {
		list = SDKs()
	}
	chains := make([]Chain, 0, len(list))
	for _, s := range list {
		chains = append(chains, ChainOf(f, s))
	}
	return chains
}

// has says whether a variable is set to something.
func (f *Facts) has(name string) bool { return f.Env[name].Length > 0 }

// text is a variable's value if it is no secret.
func (f *Facts) text(name string) string { return f.Env[name].Text }

// set says whether a variable is there, also if empty.
func (f *Facts) set(name string) bool { _, ok := f.Env[name]; return ok }

// Names of variables.
const (
	envKey         = "AWS_ACCESS_KEY_ID"
	envSecret      = "AWS_SECRET_ACCESS_KEY"
	envSession     = "AWS_SESSION_TOKEN"
	envSecurity    = "AWS_SECURITY_TOKEN"
	envExpiration  = "AWS_CREDENTIAL_EXPIRATION"
	envProfile     = "AWS_PROFILE"
	envCredentials = "AWS_SHARED_CREDENTIALS_FILE"
	envConfig      = "AWS_CONFIG_FILE"
	envLoadConfig  = "AWS_SDK_LOAD_CONFIG"
	envIdentity    = "AWS_WEB_IDENTITY_TOKEN_FILE"
	envRoleARN     = "AWS_ROLE_ARN"
	envRelative    = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	envFull        = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	envToken       = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	envTokenFile   = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	envDisabled    = "AWS_EC2_METADATA_DISABLED"
	envV1Disabled  = "AWS_EC2_METADATA_V1_DISABLED"
	envMode        = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"
	envEndpoint    = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	envTaskrole    = "TASKROLE"
)

// env is the step that every SDK begins with. What ends the search while the configuration is read is told here too.
func (l look) env() result {
	if mode := l.text(envMode); l.sdk == JSv2 && mode != "" && mode != "IPv4" && mode != "IPv6" {
		return result{verdict: Stops, why: envMode + "=" + mode + " is not known", sees: "Unsupported endpoint mode: " + mode}
	}
	if name, variable := l.profileName(); l.missingFirst && variable != "" && l.profileAbsent(name) {
		return result{verdict: Stops, why: fmt.Sprintf("%s=%s, and no file has that profile", variable, name), sees: l.profileMissing(name)}
	}
	pairs := append([][2]string{{envKey, envSecret}}, l.aliases...)
	for _, p := range pairs {
		if l.has(p[0]) && l.has(p[1]) {
			if l.sdk == JSv3 && l.has(envProfile) {
				return absent("the keys are set, and skipped because AWS_PROFILE is set")
			}
			return l.keysWork(p)
		}
	}
	for _, p := range pairs {
		if l.has(p[0]) == l.has(p[1]) {
			continue
		}
		there, not := p[0], p[1]
		if l.has(p[1]) {
			there, not = p[1], p[0]
		}
		if l.partialStops && there == envKey {
			return result{
				verdict: Stops, why: there + " is set and " + not + " is not",
				sees: "Partial credentials found in env, missing: " + not,
			}
		}
		return absent(there + " is set without " + not + " and is skipped")
	}
	return absent("no access key is set")
}

func (l look) keysWork(p [2]string) result {
	key := l.Env[p[0]]
	if ends, err := time.Parse(time.RFC3339, l.text(envExpiration)); err == nil && l.expiry && ends.Before(l.Host.Now) {
		return result{verdict: Stops, why: envExpiration + "=" + l.text(envExpiration) + " is past", sees: l.expiredSees()}
	}
	why := fmt.Sprintf("%s is %s", p[0], key.Masked)
	switch t := l.token(); {
	case t != "":
		why += ", its token is in " + t
	case key.Kind == Temporary:
		why += ", and no session token is with it"
	}
	return result{verdict: Wins, source: FromEnv, detail: key.Masked, why: why}
}

// token is the variable that the session token is read from, or "".
func (l look) token() string {
	switch {
	case l.security && l.has(envSecurity):
		return envSecurity
	case l.has(envSession):
		return envSession
	}
	return ""
}

// identity is AWS_WEB_IDENTITY_TOKEN_FILE, which needs AWS_ROLE_ARN, a file, and STS.
func (l look) identity() result {
	if !l.has(envIdentity) {
		if l.has(envRoleARN) && l.sdk == JavaV1 {
			return result{
				verdict: Stops, why: "AWS_ROLE_ARN without AWS_WEB_IDENTITY_TOKEN_FILE: where aws-java-sdk-sts is in the class path, this SDK asks itself without end",
				sees: "java.lang.StackOverflowError",
			}
		}
		if l.has(envRoleARN) {
			return absent("AWS_ROLE_ARN is set without AWS_WEB_IDENTITY_TOKEN_FILE and is ignored")
		}
		return absent("AWS_WEB_IDENTITY_TOKEN_FILE is not set")
	}
	failed := Fails
	if l.identityStops {
		failed = Stops
	}
	if !l.has(envRoleARN) {
		if !l.idNeedsRole {
			failed = Fails
		}
		return result{verdict: failed, why: "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN", sees: l.roleSees()}
	}
	if s := l.WebIdentity; s.State != Read && s.State != NotLooked {
		return result{verdict: failed, why: s.trouble(), sees: l.identitySees()}
	}
	if l.WebIdentity.State == Read && l.WebIdentity.Empty {
		return result{verdict: failed, why: l.WebIdentity.Path + " has no content", sees: l.nothing}
	}
	return result{verdict: Wins, source: FromWebIdentity, detail: l.text(envRoleARN), why: "STS is asked for " + l.text(envRoleARN)}
}

// trouble says what is wrong with a file.
func (f File) trouble() string {
	switch f.State {
	case Missing:
		return f.Path + " does not exist"
	case Unreadable, Odd:
		return f.Path + ": " + f.Why
	case Read, NotLooked:
	}
	return f.Path
}

// profileName is the profile that counts, and the variable that names it.
func (l look) profileName() (name, variable string) {
	for _, v := range l.profiles {
		if l.sdk == GoV1 && !l.has(envLoadConfig) && v != envProfile {
			continue
		}
		if l.has(v) {
			return l.text(v), v
		}
	}
	return "default", ""
}

// files are the credentials and configuration file that the SDK reads.
func (l look) files() []File {
	old := l.sdk == JSv2 && !l.has(envLoadConfig)
	if l.sdk == JavaV1 { // it reads the configuration only where there are no credentials, and names that file by another variable
		first := l.Credentials
		if l.has(envCredentials) {
			first = l.HomeFile
		}
		if first.State == Missing {
			return []File{l.Config}
		}
		return []File{first}
	}
	switch {
	case l.has(envCredentials) && old:
		return []File{l.HomeFile}
	case old, l.sdk == GoV1 && !l.has(envLoadConfig):
		return []File{l.Credentials}
	default:
		return []File{l.Credentials, l.Config}
	}
}

// profileAbsent says that none of the files has the profile, as far as they were looked at.
func (l look) profileAbsent(name string) bool {
	for _, f := range l.files() {
		if _, ok := f.Profiles[name]; ok || f.State == NotLooked {
			return false
		}
	}
	return true
}

// profile is what is below ~/.aws.
func (l look) profile() result {
	name, variable := l.profileName()
	var found []string
	for _, f := range l.files() {
		p, ok := f.Profiles[name]
		if !ok {
			continue
		}
		found = append(found, f.Path)
		if r := l.inProfile(name, f.Path, p); r.verdict != Absent {
			return r
		}
	}
	if len(found) > 0 {
		return absent(fmt.Sprintf("profile %q in %s has no credentials", name, strings.Join(found, " and ")))
	}
	if l.Credentials.State == NotLooked && l.Config.State == NotLooked {
		return absent("no file was looked at")
	}
	if variable == "" {
		return absent("no file has the profile \"default\"")
	}
	why := fmt.Sprintf("%s=%s, and no file has that profile", variable, name)
	if !l.missingStops {
		return absent(why)
	}
	return result{verdict: Stops, why: why, sees: l.profileMissing(name)}
}

func (l look) profileMissing(name string) string {
	switch l.sdk {
	case Botocore, CLIv2:
		return fmt.Sprintf("The config profile (%s) could not be found", name)
	case GoV2:
		return "failed to get shared config profile, " + name
	default:
		return l.nothing
	}
}

func (l look) inProfile(name, path string, p Profile) result {
	win := result{verdict: Wins, source: FromFile, detail: name}
	switch {
	case p.Kind != NoKey && p.Secret:
		win.why = fmt.Sprintf("profile %q in %s has %s", name, path, p.Masked)
	case p.RoleARN != "":
		win.why = fmt.Sprintf("profile %q in %s assumes %s", name, path, p.RoleARN)
	case p.SSO, p.Process, p.LogsIn:
		win.source, win.why = FromTool, fmt.Sprintf("profile %q in %s names a program or a login", name, path)
	case p.Kind != NoKey && l.partialFileStops:
		return result{verdict: Stops, why: fmt.Sprintf("profile %q in %s has a key id without a secret", name, path), sees: l.partialSees(name)}
	default:
		return absent("")
	}
	return win
}

// region is the region's source, or "".
func (l look) region() string {
	for _, v := range l.regions {
		if l.has(v) {
			return v
		}
	}
	if l.sdk == GoV1 && l.has(envLoadConfig) && l.has("AWS_DEFAULT_REGION") {
		return "AWS_DEFAULT_REGION"
	}
	name, _ := l.profileName()
	for _, f := range []File{l.Config, l.Credentials} {
		if p := f.Profiles[name]; p.Region != "" && (f.Path != l.Credentials.Path || slices.Contains([]SDK{JSv3, JavaV2, JavaV1, DotNet}, l.sdk)) {
			return f.Path
		}
	}
	return ""
}
