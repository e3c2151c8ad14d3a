package diagnose

import (
	"fmt"
	"strconv"
	"strings"
)

// container is the endpoint that AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI names.
func (l look) container() result {
	variable := l.uri()
	if variable == "" {
		return absent("neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor _FULL_URI is set")
	}
	failed := Stops
	if l.containerFalls {
		failed = Fails
	}
	fail := func(why, sees string) result { return result{verdict: failed, why: why, sees: sees} }
	value := l.text(variable)
	if variable == envFull {
		if sees := l.refuses(value); value != "" && sees != "" {
			return fail(variable+" leads to a host this SDK refuses", sees)
		}
	}
	if why := l.uriBroken(variable, value); why != "" {
		return fail(why, l.uriSees(variable, value))
	}
	if why := l.tokenBroken(); why != "" {
		if l.sdk == JSv2 {
			failed = Stops // the process ends
		}
		return fail(why, l.tokenSees())
	}
	if p := l.proxied(l.proxyContainer, l.host(variable)); p != "" {
		return fail("the request goes through "+p+", which cannot reach it", l.proxySees())
	}
	a := l.endpoint(variable)
	switch {
	case l.ended():
		return fail("taskrole has no valid credentials for the role "+l.roleName()+" any more", l.containerSees(Answer{Outcome: Answered, Status: 503, Code: codeExpired}))
	case l.serves(a):
		return result{
			verdict: Wins, source: FromContainer, detail: l.roleName(),
			why: fmt.Sprintf("taskrole serves the role %s here (%s)", l.roleName(), a.URL),
		}
	case a.Outcome == NotAsked:
		return result{verdict: Wins, source: FromContainer, detail: variable, why: variable + " is set; it was not asked"}
	case a.OK() && l.refusesEnded && a.Doc.complete() && !l.Host.Now.IsZero() && a.Doc.Expires.Before(l.Host.Now):
		return fail(a.URL+" answers with credentials that have ended", l.expiredSees())
	case a.OK() && l.takes(a.Doc):
		return result{verdict: Wins, source: FromContainer, detail: a.Doc.RoleARN, why: a.URL + " answers with " + a.Doc.Masked}
	default:
		return fail(a.says(), l.containerSees(a))
	}
}

// endpoint is the answer of the endpoint that the variable leads to.
func (l look) endpoint(variable string) Answer {
	if variable == envFull && l.has(envRelative) {
		return l.Full
	}
	return l.Container
}

// takes says whether the SDK takes the document: some sign without a token, and for ever.
func (l look) takes(d Document) bool { return d.complete() || l.loose && d.JSON && d.Key && d.Secret }

// uriFor is the variable that counts, or "".
func (f *Facts) uriFor(t traits) string {
	order := []string{envRelative, envFull}
	if t.fullFirst {
		order = []string{envFull, envRelative}
	}
	for _, v := range order {
		if f.has(v) || t.emptyCounts && f.set(v) {
			return v
		}
	}
	return ""
}

func (l look) uri() string { return l.uriFor(l.traits) }

func (l look) uriBroken(variable, value string) string {
	switch {
	case l.Env[variable].Length == 0:
		return variable + " is set but empty"
	case variable == envRelative && !strings.HasPrefix(value, "/") && l.sdk == Rust:
		return variable + " does not begin with /, so that it is lost and / is asked for"
	case variable == envRelative && !strings.HasPrefix(value, "/"):
		return variable + " does not begin with /, so the host becomes 169.254.170.2" + value
	}
	return ""
}

func (l look) host(variable string) string {
	if variable == envRelative {
		return "169.254.170.2"
	}
	return hostOf(l.text(variable))
}

// tokenBroken says what is wrong with the authorization token's file, or "".
func (l look) tokenBroken() string {
	if !l.has(envTokenFile) || l.sdk == Botocore && l.before(Botocore, podIdentity) {
		return ""
	}
	if l.has(envToken) && (l.sdk == JSv2 || l.sdk == JavaV2) {
		return "" // the value wins there
	}
	switch f := l.TokenFile; f.State {
	case Missing, Unreadable, Odd:
		return f.trouble()
	case Read:
		if f.Newline && !l.trims {
			return f.Path + " ends in a line break, which becomes part of the token"
		}
	case NotLooked:
	}
	return ""
}

// complete says whether SDKs take the document.
func (d Document) complete() bool {
	return d.JSON && d.Key && d.Secret && d.Token && !d.Expires.IsZero()
}

// served says that taskrole's agent answers. It refuses the doctor, who is no process of the container, and that is as
// good as an answer: it says so only where a role is attached.
func (f *Facts) served() bool { return f.serves(f.Container) }

func (f *Facts) serves(a Answer) bool {
	return a.Taskrole && (a.Code == notThisContainer || a.OK() && f.Role.Name != "")
}

// ended says that the agent has nothing valid to serve.
func (f *Facts) ended() bool { return f.Role.Name != "" && f.stopped(codeExpired) != "" }

const notThisContainer = "not-this-container"

// says is an answer in words.
func (a Answer) says() string {
	switch a.Outcome {
	case NotAsked:
		return a.URL + " was not asked"
	case Answered:
		return a.status()
	case Refused:
		return a.URL + " refuses the connection: nobody listens there"
	case Unreachable:
		return a.URL + " cannot be reached: " + a.Why
	case Silent:
		return a.URL + " takes the connection and does not answer"
	case Dropped:
		return a.URL + " does not take the connection: packets are lost on the way"
	case Broken:
	}
	return a.URL + ": " + a.Why
}

func (a Answer) status() string {
	s := fmt.Sprintf("%s answers %d", a.URL, a.Status)
	switch {
	case a.Code != "" || a.Message != "":
		return s + ": " + strings.TrimPrefix(strings.TrimSuffix(a.Code+": "+a.Message, ": "), ": ")
	case a.OK() && !a.Doc.JSON:
		return s + " with something that is no credentials document"
	case a.OK() && !a.Doc.complete():
		return s + " with an incomplete credentials document"
	}
	return s
}

// imds is the last step of every chain.
func (l look) imds() result {
	fail := func(why string) result { return result{verdict: Fails, why: why, sees: l.imdsSees()} }
	if v := l.text(envDisabled); l.disabled(v) {
		return absent("AWS_EC2_METADATA_DISABLED=" + v + " keeps this SDK from it")
	}
	if (l.has(envRelative) || l.has(envFull)) && l.sdk != IMDSv1 {
		if !l.containerFalls {
			return absent("not asked where a container variable is set")
		}
	}
	if mode := l.text(envMode); l.sdk == JSv3 && mode != "" && mode != "IPv4" && mode != "IPv6" {
		return result{verdict: Stops, why: envMode + "=" + mode + " is not known", sees: "Unsupported endpoint mode: " + mode + ". Select from IPv4,IPv6"}
	}
	if p := l.proxied(l.proxyIMDS, l.metadataHost()); p != "" {
		r := fail("the request goes through " + p + ", which cannot reach it")
		if l.sdk == Rust {
			r.sees = rustToken
		}
		return r
	}
	i := l.IMDS
	switch {
	case l.ended():
		return fail("taskrole has no valid credentials for the role " + l.roleName() + " any more")
	case l.servedByIMDS():
		return l.ourIMDS()
	case i.Token.Outcome == NotAsked:
		return absent("it was not asked: whether it answers is not known")
	case l.onlyV1:
		return l.listing(i.V1, "without a token: it speaks only version 1")
	case i.Token.OK():
		return l.listing(i.V2, "with a token")
	}
	if (l.sdk == Botocore || l.sdk == CLIv2) && onlyTrue(l.text(envV1Disabled)) && i.Token.Status != 400 && i.Token.Outcome == Answered {
		return result{
			verdict: Stops, why: i.Token.says() + "; " + envV1Disabled + " forbids version 1",
			sees: "Unable to retrieve token for use in IMDSv2 call and IMDSv1 has been disabled",
		}
	}
	if why := l.noFallback(i.Token); why != "" {
		return fail(i.Token.says() + "; " + why)
	}
	return l.listing(i.V1, "without a token, as version 1")
}

// ourIMDS is what taskrole's own metadata service does, by the role's imds.
func (l look) ourIMDS() result {
	switch {
	case l.Role.IMDS == "off":
		r := result{verdict: Fails, why: "the role's imds is off: taskrole refuses here", sees: l.imdsSees()}
		if l.sdk == IMDSv1 {
			r.sees = "…403…"
		}
		return r
	case l.tokenless():
		return result{verdict: Fails, why: "the role's imds is v2-only, and this client asks without a token", sees: "…401…"}
	}
	return result{verdict: Wins, source: FromIMDS, detail: l.roleName(), why: fmt.Sprintf("taskrole serves the role %s here too", l.roleName())}
}

// noFallback says why the SDK does not go on without a token, or "".
func (l look) noFallback(a Answer) string {
	switch {
	case a.Outcome == Unreachable, a.Outcome == Refused && !l.IMDS.V1.OK(), a.Outcome == Dropped:
		return "so nothing else is tried"
	case a.Status == 400:
		return "a 400 ends it"
	case a.Status >= 500 && l.ends5xx:
		return "a " + strconv.Itoa(a.Status) + " ends it in this SDK"
	case a.Outcome == Broken && l.sdk == Ruby:
		return "so this SDK tries nothing else"
	case l.noV1:
		return "this SDK speaks only version 2"
	case onlyTrue(l.text(envV1Disabled)):
		return "AWS_EC2_METADATA_V1_DISABLED=" + l.text(envV1Disabled) + " forbids version 1"
	}
	return ""
}

func (l look) listing(a Answer, how string) result {
	if a.OK() && l.IMDS.Role != "" {
		return result{
			verdict: Wins, source: FromIMDS, detail: l.IMDS.Role,
			why: fmt.Sprintf("it lists the role %q, %s", l.IMDS.Role, how),
		}
	}
	return result{verdict: Fails, why: a.says(), sees: l.imdsSees()}
}

// tokenless says that taskrole refuses the client because it asks without a token.
func (l look) tokenless() bool { return l.onlyV1 && l.servedByIMDS() && l.Role.IMDS == v2Only }

// v2Only is the configuration's word.
const v2Only = "v2-only"

// servedByIMDS says that the agent answers at the address of IMDS.
func (f *Facts) servedByIMDS() bool {
	i := f.IMDS
	return i.Token.Code == notThisContainer || i.V1.Code == notThisContainer || f.Role.Name != "" && i.Local && i.Token.OK() && i.Role != ""
}

// roleName is the role as far as it is known.
func (f *Facts) roleName() string {
	switch {
	case f.Role.Name != "":
		return f.Role.Name
	case f.Role.Wanted != "":
		return f.Role.Wanted
	}
	return "(the agent did not say which)"
}

// proxied is the proxy variable that a request to host is subject to, or "".
func (l look) proxied(honoured bool, host string) string {
	if !honoured {
		return ""
	}
	if l.proxyLoopback {
		return l.proxyOf(host)
	}
	return l.proxyFor(host)
}
