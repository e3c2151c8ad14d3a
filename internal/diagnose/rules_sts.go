package diagnose

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ARNs in the words of AWS. Their characters are those that IAM allows, so that they may stand in a command.
var (
	roleRE = regexp.MustCompile(`arn:[a-z-]+:iam::[0-9]{12}:role/[\w+=,.@/-]*[\w+=,@/-]`)
	userRE = regexp.MustCompile(`User: (arn:[a-z-]+:(?:iam|sts)::[0-9]{12}:[\w+=,.@/:-]+) is not authorized`)
)

// refusal is what STS said, taken apart.
type refusal struct {
	text string // AWS's words, with ours around them
	name string // of the role in the configuration
	arn  string // the role's
	// who is the principal that a trust policy must name: the role of an assumed role's session. "" if AWS did not say.
	who string
	Sent
}

// Sent is what the configuration sends with AssumeRole beside the role.
type Sent struct {
	ExternalID string
	Tags       bool
	Policy     bool
	Duration   time.Duration // 0: not known
}

func (f *Facts) refusal(text string) refusal {
	r := refusal{text: text, name: f.Role.Wanted, arn: f.Role.ARN, Sent: f.Role.Sent}
	if r.name == "" {
		r.name = f.Role.Name
	}
	if m := roleRE.FindString(text); m != "" {
		r.arn = m
	}
	if m := userRE.FindStringSubmatch(text); m != nil {
		r.who = principal(m[1])
	}
	return r
}

// principal turns the ARN of a session into that of its role, whose path AWS does not tell.
func principal(user string) string {
	head, session, ok := strings.Cut(user, ":assumed-role/")
	name, _, _ := strings.Cut(session, "/")
	if !ok || name == "" {
		return user
	}
	return strings.Replace(head, ":sts:", ":iam:", 1) + ":role/" + name
}

// role is the role's name in commands.
func (r refusal) role() string {
	if r.arn == "" {
		return "ROLE"
	}
	return r.arn[strings.LastIndexByte(r.arn, '/')+1:]
}

// host is the principal in documents.
func (r refusal) host() string {
	if r.who == "" {
		return "ARN-OF-THE-HOST"
	}
	return r.who
}

// statement is one of a policy, in the order people write it.
type statement struct {
	Effect    string
	Principal map[string]string `json:",omitempty"`
	Action    any
	Resource  string                       `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

func policy(s ...statement) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", s}); err != nil {
		return "" // texts alone can always be written
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// trust is a trust policy that lets the host in with what the configuration sends. The external id is a condition of
// AssumeRole alone.
func (r refusal) trust() Paste {
	who := map[string]string{"AWS": r.host()}
	assume := statement{Effect: "Allow", Principal: who, Action: "sts:AssumeRole"}
	if r.ExternalID != "" {
		assume.Condition = map[string]map[string]string{"StringEquals": {"sts:ExternalId": r.ExternalID}}
	}
	return Paste{
		Where: "into the trust policy of " + r.role(),
		Text:  policy(assume, statement{Effect: "Allow", Principal: who, Action: "sts:TagSession"}),
	}
}

// identity is a policy for the host's own role.
func (r refusal) identity() Paste {
	return Paste{
		Where: "into a policy of " + r.host(),
		Text:  policy(statement{Effect: "Allow", Action: []string{"sts:AssumeRole", "sts:TagSession"}, Resource: r.arn}),
	}
}

func (r refusal) duration(d string) Paste {
	return Paste{Where: "into the configuration", Text: "roles:\n  " + r.name + ":\n    duration: " + d}
}

// getTrust shows what the role wants.
func (r refusal) getTrust() string {
	return "aws iam get-role --role-name " + r.role() + " --query Role.AssumeRolePolicyDocument"
}

func (r refusal) says(parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(r.text, p) {
			return true
		}
	}
	return false
}

// reload is how a changed configuration comes into force.
const reload = "taskrole config check && systemctl reload taskrole"

// stsWay is how a reason is known, and what is found then.
type stsWay struct {
	parts []string
	find  func(refusal) Finding
}

// stsWays are what STS's words tell apart, the surest first, and what to do. AWS gives the reason of a denial only where
// a policy denies in so many words: what nobody allows is refused in the same words whatever is missing.
var stsWays = []stsWay{
	{[]string{"exceeds the MaxSessionDuration"}, refusal.tooLong},
	{[]string{"session limit for roles assumed by role chaining"}, refusal.chained},
	{[]string{"STS is not activated in this region", "RegionDisabledException"}, refusal.regionOff},
	{[]string{"PackedPolicyTooLarge"}, refusal.packed},
	{[]string{"MalformedPolicyDocument"}, refusal.malformed},
	{[]string{"explicit deny"}, refusal.denied},
	{[]string{"because no identity-based policy allows"}, refusal.notAllowed},
	{[]string{"perform: sts:TagSession"}, refusal.noTags},
	{[]string{"because no role trust policy allows", "because no resource-based policy allows"}, refusal.notTrusted},
	{[]string{"is not authorized to perform: sts:AssumeRole"}, refusal.unsaid},
}

func (r refusal) tooLong() Finding {
	asked := "what the configuration asks for"
	if r.Duration > 0 {
		asked = r.Duration.String()
	}
	commands := []string{"aws iam get-role --role-name " + r.role() + " --query Role.MaxSessionDuration", reload}
	if r.Duration > 0 {
		commands = append(commands, fmt.Sprintf("aws iam update-role --role-name %s --max-session-duration %d", r.role(), int(r.Duration.Seconds())))
	}
	return Finding{
		What: "the role's longest session is shorter than " + asked,
		Fix:  "lower duration in the configuration and reload, or raise the role's maximum", Commands: commands, Paste: []Paste{r.duration("1h")},
	}
}

func (r refusal) chained() Finding {
	return Finding{
		What: "the agent's own identity is a role, and a role may assume another one for an hour at most",
		Fix:  "ask for an hour", Commands: []string{reload}, Paste: []Paste{r.duration("1h")},
	}
}

func (r refusal) regionOff() Finding {
	return Finding{
		What: "STS is not activated for the account in the region that the agent asks in",
		Fix:  "let the agent ask in a region that is, or activate STS there (IAM console, Account settings, Endpoints)",
		Commands: []string{
			"aws account list-regions --region-opt-status-contains ENABLED ENABLED_BY_DEFAULT", reload,
		},
		Paste: []Paste{{Where: "into the configuration", Text: "roles:\n  " + r.name + ":\n    region: us-east-1"}},
	}
}

func (r refusal) packed() Finding {
	return Finding{
		What: "the session policy and the tags of the role are too large for STS, which packs both together",
		Fix:  "shorten policy, or the tags, in the configuration: what the role's own policies already keep out need not be in it", Commands: []string{reload},
	}
}

func (r refusal) malformed() Finding {
	return Finding{
		What: "AWS does not understand the session policy of the role in the configuration",
		Fix:  "correct policy of the role: it is an IAM policy as JSON, with Version and Statement",
		Commands: []string{
			"aws accessanalyzer validate-policy --policy-type IDENTITY_POLICY --policy-document file://POLICY.json", reload,
		},
	}
}

// denying are the kinds of policies that AWS names as the one that denies, and whose they are.
var denying = []struct{ kind, whose, command string }{
	{"service control policy", "of the organization", "aws organizations list-policies-for-target --filter SERVICE_CONTROL_POLICY --target-id ACCOUNT"},
	{"resource control policy", "of the organization", "aws organizations list-policies-for-target --filter RESOURCE_CONTROL_POLICY --target-id ACCOUNT"},
	{"permissions boundary", "of the agent's own role", ""},
	{"session policy", "of the agent's own session", ""},
	{"VPC endpoint policy", "of the VPC's endpoint for STS", "aws ec2 describe-vpc-endpoints --query 'VpcEndpoints[].PolicyDocument'"},
	{"identity-based policy", "of the agent's own role", ""},
	{"resource-based policy", "of the role, its trust policy,", ""},
	{"role trust policy", "of the role", ""},
}

// article is a word's indefinite one.
func article(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an"
	}
	return "a"
}

func (r refusal) denied() Finding {
	x := Finding{
		What: "a policy denies it in so many words, and no other can allow it again",
		Fix:  "find the Deny and except the agent from it", Commands: []string{r.getTrust()},
	}
	for _, d := range denying {
		if !r.says(d.kind) {
			continue
		}
		x.What = article(d.kind) + " " + d.kind + " " + d.whose + " denies it in so many words, and no other can allow it again"
		x.Fix = "except " + r.host() + " from the Deny of the " + d.kind
		switch {
		case d.command != "":
			x.Commands = []string{d.command}
		case strings.HasPrefix(d.whose, "of the agent"):
			x.Commands = []string{
				"aws sts get-caller-identity", "aws iam list-attached-role-policies --role-name " + refusal{arn: r.who}.role(),
				"aws iam list-role-policies --role-name " + refusal{arn: r.who}.role(),
			}
		}
		break
	}
	return x
}

func (r refusal) notAllowed() Finding {
	return Finding{
		What: "no policy of the agent's own identity lets it assume the role",
		Fix:  "allow it there", Commands: []string{"aws sts get-caller-identity"}, Paste: []Paste{r.identity()},
	}
}

func (r refusal) noTags() Finding {
	return Finding{
		What:     "the agent may assume the role, and may not pass the tags that the configuration sends",
		Fix:      "allow sts:TagSession beside sts:AssumeRole in the role's trust policy, or take tags out of the configuration",
		Commands: []string{r.getTrust()}, Paste: []Paste{r.trust(), r.identity()},
	}
}

func (r refusal) notTrusted() Finding {
	return Finding{
		What: "the trust policy of the role does not let the agent in",
		Fix:  "let it name the agent's identity", Commands: []string{r.getTrust()}, Paste: []Paste{r.trust()},
	}
}

// unsaid: AWS does not say which of these it is, to keep from who is not let in whether a role is there.
func (r refusal) unsaid() Finding {
	external := "the configuration sends no external id, and the trust policy may want one: its Condition has sts:ExternalId then"
	if r.ExternalID != "" {
		external = "the configuration sends the external id " + r.ExternalID + ", and the trust policy may want another, or the Condition may be misspelt"
	}
	x := Finding{
		What: "nothing allows the agent to assume the role, and AWS does not say what is missing",
		Evidence: []string{
			"possible: the trust policy does not name " + r.host(),
			"possible: " + external,
			"possible: there is no role " + r.arn + ": get-role says NoSuchEntity then",
			"possible: the trust policy names only the account, or the role is of another account, and no policy of the agent's own identity allows sts:AssumeRole",
		},
		Fix:      "compare the trust policy with this one, and with what the configuration sends",
		Commands: []string{r.getTrust(), "aws sts get-caller-identity"}, Paste: []Paste{r.trust(), r.identity()},
	}
	return x
}

// RefusedBySTS is what to do about a role that STS refuses in these words, or nil if nothing is known about them.
func RefusedBySTS(text string, role Role) *Finding {
	if !slices.ContainsFunc(stsWays, func(w stsWay) bool { return refusal{text: text}.says(w.parts...) }) {
		return nil
	}
	return stsRefused(&Facts{Role: role, Subject: Subject{Stopped: text + " [" + codeSTS + "]"}})
}

// renewal is why the agent cannot renew what has ended, if it says so in words that have the part; or "".
func (f *Facts) renewal(part string) string {
	if text := f.stopped(codeExpired); strings.Contains(text, part) {
		return text
	}
	return ""
}

// The words of the agent's faults about its calls to STS.
const (
	saysRefuses = "AWS refuses the role"
	saysHost    = "this host"
)

func stsRefused(f *Facts) *Finding {
	text := cmp.Or(f.stopped(codeSTS), f.renewal(saysRefuses))
	if text == "" {
		return nil
	}
	r := f.refusal(text)
	x := Finding{
		What: "AWS does not accept what the agent asks for", Fix: "correct the role in the configuration", Commands: []string{reload},
	}
	for _, w := range stsWays {
		if r.says(w.parts...) {
			x = w.find(r)
			break
		}
	}
	x.Severity, x.Code, x.Manual = Error, "sts-refused", manual+"sts-refused"
	x.What = "AWS refuses the agent the role " + r.name + ": " + x.What
	x.Evidence = append([]string{"refused with: " + text}, x.Evidence...)
	return &x
}

// stsSilent: STS says neither yes nor no.
func stsSilent(f *Facts) *Finding {
	text := f.stopped(codeSilent, codeExpired)
	if text == "" || f.renewal(saysRefuses) != "" || f.renewal(saysHost) != "" {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "STS gives the agent no answer, so that there are no credentials for the role", Evidence: []string{"refused with: " + text},
		Fix: "look at this host's way to STS: its endpoint and region in the configuration, DNS, firewall, a proxy in the agent's unit",
		Commands: []string{
			"curl -sS -o /dev/null -w '%{http_code}\\n' https://sts.REGION.amazonaws.com/", "systemctl show taskrole -p Environment", "journalctl -u taskrole -n 50",
		},
	}
	if strings.Contains(text, "throttling") {
		x.What = "STS turns the agent away because the account asks it too often"
		x.Fix = "wait: it is tried again; if it lasts, lower sts.calls_per_second, let containers share sessions, or ask AWS for a higher quota"
		x.Commands = []string{"journalctl -u taskrole -n 50", "aws service-quotas list-service-quotas --service-code sts"}
	}
	return x
}

// hostIdentity: there is none, or AWS does not accept it.
func hostIdentity(f *Facts) *Finding {
	text := cmp.Or(f.stopped(codeIdentity), f.renewal(saysHost))
	if text == "" {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "the agent itself has no AWS credentials, so that it cannot ask for the role's", Evidence: []string{"refused with: " + text},
		Fix: "attach an instance profile to the instance, or name a profile in the agent's unit, and start the container again",
		Commands: []string{
			"aws ec2 associate-iam-instance-profile --instance-id INSTANCE --iam-instance-profile Name=PROFILE", "aws sts get-caller-identity", "systemctl edit taskrole",
		},
	}
	switch {
	case strings.Contains(text, "own credentials") && strings.Contains(text, "expired"):
		x.What = "the agent's own AWS credentials have expired"
		x.Fix = "renew them where they come from; those of an instance profile renew themselves, and a restart takes the new ones"
		x.Commands = []string{"systemctl show taskrole -p Environment", "systemctl restart taskrole", "aws sts get-caller-identity"}
	case strings.Contains(text, "own credentials"):
		x.What = "AWS does not know the agent's own credentials"
		x.Fix = "the key is deleted, or of another partition, or its token comes from the global STS endpoint, which opt-in regions do not accept: give the agent others"
		x.Commands = []string{"aws sts get-caller-identity", "systemctl edit taskrole"}
	case strings.Contains(text, "signature"):
		x.What = "AWS does not accept the agent's signature"
		x.Fix = "the secret access key is not the key id's: set both again"
		x.Commands = []string{"aws sts get-caller-identity", "systemctl edit taskrole"}
	}
	return x
}
