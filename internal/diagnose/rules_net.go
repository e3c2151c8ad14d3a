package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// skewed is how far the clocks may be apart before AWS minds: it allows 15 minutes, but SDKs misjudge expiry earlier.
const skewed = 5 * time.Minute

func clockSkew(f *Facts) *Finding {
	x := &Finding{
		Severity: Error, Fix: "set the clock: containers share the host's",
		Commands: []string{"date -u; curl -sSI https://sts.amazonaws.com | grep -i ^date", "chronyc makestep", "timedatectl set-ntp true"},
	}
	for _, a := range []Answer{f.IMDS.Token, f.IMDS.V1, f.Container} {
		if !a.HasDate || a.Skew.Abs() < skewed || a.Taskrole {
			continue
		}
		word := "behind"
		if a.Skew < 0 {
			word = "ahead of"
		}
		x.What = fmt.Sprintf("the host's clock is %s %s the metadata service's", a.Skew.Abs().Round(time.Second), word)
		x.Evidence = append(x.Evidence, fmt.Sprintf("%s: the Date of its answer is %s off", a.URL, a.Skew.Round(time.Second)), "AWS refuses signatures that are 15 minutes off")
		break
	}
	if text := f.stopped(codeIdentity); strings.Contains(text, "Signature expired") || strings.Contains(text, "not yet current") {
		if x.What == "" {
			x.What = "the host's clock is 15 minutes or more from AWS's"
		}
		x.Evidence = append(x.Evidence, "refused with: "+text)
	}
	if x.What == "" {
		return nil
	}
	return x
}

// needs says for which SDKs the search leads to IMDS.
func needsIMDS(f *Facts) []SDK {
	return which(f, func(l look) bool { return reaches(f, l.sdk, inIMDS.name) })
}

// reaches says whether the step is one that the SDK's search comes to and that has something to do.
func reaches(f *Facts, s SDK, name string) bool {
	return slices.ContainsFunc(ChainOf(f, s).Steps, func(st Step) bool {
		return strings.HasSuffix(st.Name, name) && st.Verdict != Beaten && st.Verdict != Absent
	})
}

// ours says that taskrole is what answers in this namespace, or should be.
func (f *Facts) ours() bool { return f.Role.Name != "" || f.Role.Wanted != "" }

func containerUnreachable(f *Facts) *Finding {
	a := f.Container
	if !slices.Contains([]Outcome{Refused, Unreachable, Silent, Dropped, Broken}, a.Outcome) || f.pair() {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the environment leads to a container endpoint that does not answer",
		Evidence: []string{a.says(), "environment: " + f.uriFor(traits{}) + " is set"},
		Affects:  which(f, func(l look) bool { return reaches(f, l.sdk, inContain.name) }),
		Fix:      "unset the variable where nothing serves it, or give the container a role",
		Commands: append(f.unset(envRelative, envFull), f.instead()...),
	}
}

func containerError(f *Facts) *Finding {
	a := f.Container
	if a.Outcome != Answered || a.OK() || f.served() || f.pair() {
		return nil
	}
	return &Finding{
		Severity: Error, What: fmt.Sprintf("the container endpoint refuses with %d", a.Status),
		Evidence: []string{a.says()}, Affects: which(f, func(l look) bool { return reaches(f, l.sdk, inContain.name) }),
		Fix:      "its message says why; JavaScript's SDKs hide it",
		Commands: []string{fmt.Sprintf("nsenter -t %s -n curl -sS -i %s", f.pid(), quote(a.URL))},
	}
}

func documentIncomplete(f *Facts) *Finding {
	a := f.Container
	if !a.OK() || f.served() || !a.Doc.JSON || a.Doc.complete() || f.pair() {
		return nil
	}
	var miss []string
	for _, m := range []struct {
		name string
		ok   bool
	}{{"AccessKeyId", a.Doc.Key}, {"SecretAccessKey", a.Doc.Secret}, {"Token", a.Doc.Token}, {"Expiration", !a.Doc.Expires.IsZero()}} {
		if !m.ok {
			miss = append(miss, m.name)
		}
	}
	return &Finding{
		Severity: Error, What: "the container endpoint's document lacks " + strings.Join(miss, ", "),
		Evidence: []string{a.URL + " answers 200 without a usable " + strings.Join(miss, ", ")},
		Affects:  which(f, func(l look) bool { return reaches(f, l.sdk, inContain.name) }),
		Fix:      "what serves it is not complete: SDKs fail, or sign without a token", Commands: f.instead(),
	}
}

func imdsDisabled(f *Facts) *Finding {
	v := f.text(envDisabled)
	hit := which(f, func(l look) bool {
		return l.disabled(v) && ChainOf(f, l.sdk).Source == FromNowhere && f.uriFor(l.traits) == ""
	})
	if !onlyTrue(v) || len(hit) == 0 || f.Subject.NotRunning {
		return nil
	}
	return &Finding{
		Severity: Error, What: "AWS_EC2_METADATA_DISABLED=" + v + " switches off the only source that is left",
		Evidence: []string{"environment: AWS_EC2_METADATA_DISABLED=" + v, "no other step of the chain has credentials"},
		Affects:  hit, Fix: "unset it, or give the container a role", Commands: append(f.unset(envDisabled), f.instead()...),
	}
}

// disabledAmbiguous: SDKs agree about true only.
func disabledAmbiguous(f *Facts) *Finding {
	v := f.text(envDisabled)
	if v == "" || onlyTrue(v) {
		return nil
	}
	var yes, no []SDK
	for _, s := range which(f, func(look) bool { return true }) {
		if specs[s].disabled(v) {
			yes = append(yes, s)
		} else {
			no = append(no, s)
		}
	}
	if len(no) == 0 || len(yes) == 0 && strings.EqualFold(v, "false") {
		return nil
	}
	effect := "it disables nothing"
	if len(yes) > 0 {
		effect = "it disables the metadata service only for " + list(yes)
	}
	severity, affected := Warning, yes
	if len(yes) == 0 {
		affected = nil // nobody does what the variable says
	}
	if len(f.SDKs) > 0 && slices.ContainsFunc(yes, func(s SDK) bool { return ChainOf(f, s).Source == FromNowhere }) {
		severity = Error // it is what keeps one that is there from its credentials
	}
	return &Finding{
		Severity: severity, What: "AWS_EC2_METADATA_DISABLED=" + v + " is not understood by all: " + effect,
		Evidence: []string{"environment: AWS_EC2_METADATA_DISABLED=" + v, "not disabled for: " + list(no)}, Affects: affected,
		Fix: "write true, or unset it", Commands: append(f.unset(envDisabled), "export AWS_EC2_METADATA_DISABLED=true"),
	}
}

func imdsThrottled(f *Facts) *Finding {
	hit := needsIMDS(f)
	for _, a := range []Answer{f.IMDS.Token, f.IMDS.V2, f.IMDS.V1} {
		if a.Outcome == Answered && (a.Status == 429 || a.Status == 503) && len(hit) > 0 && !a.Taskrole {
			return &Finding{
				Severity: Error, What: "the instance metadata service is being asked too often and turns requests away",
				Evidence: []string{a.says(), "an instance has 1024 packets a second for metadata, DNS and time together"},
				Affects:  hit, Fix: "ask less often: one client for many calls, and a task role, which is answered from memory", Commands: f.instead(),
			}
		}
	}
	return nil
}

// cutAnswers is how a hop limit that is too low looks: the connection is made, the token's answer is lost, other
// answers arrive.
func (f *Facts) cutAnswers() bool {
	return f.IMDS.Token.Outcome == Silent && f.IMDS.V1.Outcome == Answered
}

// listed is an answer to the question for the role's name.
func (a Answer) listed() string {
	if a.OK() {
		return a.URL + " answers 200"
	}
	return a.says()
}

func (f *Facts) hopEvidence() []string {
	return []string{
		f.IMDS.Token.says() + " (PUT, " + f.IMDS.Token.Elapsed.Round(time.Millisecond).String() + ")",
		f.IMDS.V1.listed() + " (GET without a token)",
		"only the answer to PUT carries the hop limit",
	}
}

// hopCommands are for somebody with the rights and the instance's id.
var hopCommands = []string{
	"aws ec2 describe-instances --instance-ids INSTANCE --query 'Reservations[].Instances[].MetadataOptions'",
	"aws ec2 modify-instance-metadata-options --instance-id INSTANCE --http-put-response-hop-limit 2",
}

func hopLimit(f *Facts) *Finding {
	hit := leftAtIMDS(f) // where version 1 is allowed, those that do not speak it
	if !f.cutAnswers() || len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the instance's metadata answers with a hop limit of 1, which ends on the host: no token reaches the container",
		Evidence: f.hopEvidence(), Affects: hit,
		Fix:      "give the container a role of its own instead of the host's; raising the hop limit to 2 gives every container the host's",
		Commands: append(f.instead(), hopCommands...),
	}
}

// v1Fallback is the same hop limit where version 1 is allowed: it works, slowly, as the host.
func v1Fallback(f *Facts) *Finding {
	if !f.cutAnswers() || !f.IMDS.V1.OK() || f.IMDS.Role == "" {
		return nil
	}
	hit := which(f, func(l look) bool { c := ChainOf(f, l.sdk); return c.Source == FromIMDS && !l.noV1 })
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "SDKs wait 1 to 6 seconds for a token, fall back to IMDSv1 and silently take the host's role " + f.IMDS.Role,
		Evidence: f.hopEvidence(), Affects: hit,
		Fix:      "give the container a role of its own, and require tokens on the host",
		Commands: append(f.instead(), "aws ec2 modify-instance-metadata-options --instance-id INSTANCE --http-tokens required"),
	}
}

// v2Required is a token that nobody gives, or a client that asks for none.
func v2Required(f *Facts) *Finding {
	if hit := which(f, func(l look) bool { return l.tokenless() && reaches(f, l.sdk, inIMDS.name) }); len(hit) > 0 {
		return &Finding{
			Severity: Error, What: "taskrole's metadata service requires a token (IMDSv2), and " + list(hit) + " asks without one",
			Evidence: append([]string{"configuration: imds of the role " + f.roleName() + " is v2-only"}, f.tokenless(hit)...), Affects: hit,
			Fix: "take a client that asks for a token, or set imds to v1-and-v2 in the role", Commands: []string{"taskrole config check"},
		}
	}
	if f.IMDS.V1.Status != 401 || f.IMDS.Token.Outcome != Answered || f.IMDS.Token.Status == 429 {
		return nil
	}
	if !f.IMDS.Token.OK() {
		if hit := needsIMDS(f); len(hit) > 0 {
			return &Finding{
				Severity: Error, What: "the metadata service requires a token and gives none",
				Evidence: []string{f.IMDS.Token.says(), f.IMDS.V1.says()}, Affects: hit,
				Fix: "look at what stands between: a proxy adds X-Forwarded-For, or PUT is not let through; a role of the container's own needs none of it",
				Commands: append([]string{
					fmt.Sprintf("nsenter -t %s -n curl -sS -i -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token", f.pid()),
				}, f.instead()...),
			}
		}
		return nil
	}
	hit := which(f, func(l look) bool { return l.onlyV1 && reaches(f, l.sdk, inIMDS.name) })
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the metadata service requires a token (IMDSv2), and " + list(hit) + " asks without one",
		Evidence: append([]string{f.IMDS.V1.says()}, f.tokenless(hit)...), Affects: hit,
		Fix: "take a version that asks for a token, or give the container a role: at the address of ECS it needs none", Commands: f.instead(),
	}
}

// tokenless are the libraries that show it.
func (f *Facts) tokenless(sdks []SDK) (evidence []string) {
	for _, s := range sdks {
		if l, ok := f.LibraryOf(s); ok && f.beforeTokens(s) {
			evidence = append(evidence, l.Path+": "+s.Title()+" "+l.Version+"; the first that asks for a token is "+tokensSince[s])
		}
	}
	return evidence
}

func imdsOff(f *Facts) *Finding {
	hit := needsIMDS(f)
	if f.IMDS.Token.Status != 403 || f.IMDS.V1.Status != 403 || len(hit) == 0 || f.ours() {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the instance's metadata service is switched off",
		Evidence: []string{f.IMDS.Token.says(), f.IMDS.V1.says()}, Affects: hit,
		Fix: "give the container a role, or switch the service on", Commands: append(f.instead(),
			"aws ec2 modify-instance-metadata-options --instance-id INSTANCE --http-endpoint enabled"),
	}
}

func imdsNoRole(f *Facts) *Finding {
	hit := needsIMDS(f)
	a := f.IMDS.V1
	if f.IMDS.Token.OK() {
		a = f.IMDS.V2
	}
	if a.Status != 404 || len(hit) == 0 || f.ours() {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the instance has no role",
		Evidence: []string{a.says()}, Affects: hit,
		Fix: "attach an instance profile, or give the container a role", Commands: append(f.instead(),
			"aws ec2 associate-iam-instance-profile --instance-id INSTANCE --iam-instance-profile Name=PROFILE"),
	}
}

// leftAtIMDS are the SDKs whose search ends at IMDS, without credentials.
func leftAtIMDS(f *Facts) []SDK {
	return which(f, func(l look) bool { return reaches(f, l.sdk, inIMDS.name) && ChainOf(f, l.sdk).Source == FromNowhere })
}

// imdsGuarded is what the guard is for: no mistake, but a container that needs credentials has none.
func imdsGuarded(f *Facts) *Finding {
	hit := leftAtIMDS(f)
	t := f.IMDS.Token
	if f.Host.Guard != "enforce" || t.Outcome != Dropped || !f.metadataRouted() || len(hit) == 0 || f.ours() {
		return nil
	}
	return &Finding{
		Severity: Error, What: "taskrole's guard keeps the container from the host's role, and it has no other",
		Evidence: []string{t.says(), "configuration: guard is enforce, and the namespace has a route to the metadata service"}, Affects: hit,
		Fix: "give the container a role of its own, or except it in the configuration", Commands: append(f.instead(), reload),
		Paste: []Paste{{Where: "into the configuration, to except it", Text: "guard:\n  mode: enforce\n  except:\n    - name: " + yaml(f.Subject.Container)}},
	}
}

func imdsUnreachable(f *Facts) *Finding {
	hit := leftAtIMDS(f)
	t := f.IMDS.Token
	if !slices.Contains([]Outcome{Refused, Unreachable, Silent, Dropped, Broken}, t.Outcome) || f.IMDS.V1.Outcome == Answered || len(hit) == 0 || f.ours() {
		return nil
	}
	x := &Finding{
		Severity: Error, Evidence: []string{t.says()}, Affects: hit,
		Fix:      "give the container a role: taskrole answers inside the namespace and needs no network",
		Commands: f.instead(),
	}
	switch {
	case f.Net.Known && len(f.Net.Devices) == 0:
		x.What = "the container has no network, so it cannot reach the metadata service"
		x.Evidence = append(x.Evidence, "the namespace has no device but lo (--network none)")
	case f.Net.Known && !f.metadataRouted():
		x.What = "the container's network leads nowhere outside, so it cannot reach the metadata service"
		x.Evidence = append(x.Evidence, "there is no route to "+f.metadataHost()+" (an internal network)")
	case t.Outcome == Dropped:
		x.What = "packets to the metadata service are lost: a firewall, or this is no EC2 instance"
		x.Commands = append(x.Commands, "nft list ruleset | grep -n 169.254", "iptables -S | grep -n 169.254")
	default:
		x.What = "the metadata service does not answer: this is no EC2 instance, or it is blocked"
	}
	return x
}

// noCredentials is for SDKs that nothing else speaks of.
func noCredentials(f *Facts) *Finding {
	hit := which(f, func(l look) bool { return ChainOf(f, l.sdk).Source == FromNowhere })
	if f.Subject.Planned || f.Subject.NotRunning || len(hit) == 0 || f.IMDS.Token.Outcome == NotAsked {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "no credentials are found in this process", Affects: hit,
		Fix: "give the container a role", Commands: f.instead(),
	}
	for _, s := range ChainOf(f, hit[0]).Steps {
		x.Evidence = append(x.Evidence, s.Name+": "+s.Why)
	}
	return x
}

func hostRole(f *Facts) *Finding {
	hit := which(f, func(l look) bool { return ChainOf(f, l.sdk).Source == FromIMDS })
	if len(hit) == 0 || f.Role.Name != "" || f.IMDS.Local || f.IMDS.Role == "" || f.Subject.Container == "" {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "the container acts as the host: it holds the instance's role " + f.IMDS.Role,
		Evidence: []string{"instance metadata lists the role " + f.IMDS.Role, "no earlier step of the chain has credentials"},
		Affects:  hit, Fix: "give the container a role of its own, and keep all others from the host's", Commands: append(f.instead(), reload),
		Paste: []Paste{{Where: "into the configuration", Text: "guard: enforce"}},
	}
}
