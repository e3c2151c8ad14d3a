package diagnose_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"taskrole/internal/diagnose"
)

const (
	taskRole = "arn:aws:iam::123456789012:role/team/task-x"
	session  = "arn:aws:sts::123456789012:assumed-role/ec2-instance-role/i-0123456789abcdef0"
	hostRole = "arn:aws:iam::123456789012:role/ec2-instance-role"
	refused  = "User: " + session + " is not authorized to perform: sts:AssumeRole on resource: " + taskRole
)

// TestSTSReasonsAreToldApart as far as AWS's words do, and no further.
func TestSTSReasonsAreToldApart(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		sent diagnose.Sent
		want []string // in the finding
		not  []string
	}{
		"nothing allows it": {
			refused,
			diagnose.Sent{},
			[]string{"AWS does not say what is missing", "possible: the trust policy does not name " + hostRole, "sends no external id", "NoSuchEntity", "--role-name task-x "},
			[]string{"sts:ExternalId\""},
		},
		"with an external id": {refused, diagnose.Sent{ExternalID: "ours"}, []string{"sends the external id ours", `"sts:ExternalId": "ours"`}, nil},
		"MaxSessionDuration": {
			"ValidationError: The requested DurationSeconds exceeds the MaxSessionDuration set for this role",
			diagnose.Sent{Duration: 4 * time.Hour},
			[]string{"shorter than 4h0m0s", "duration: 1h", "--max-session-duration 14400"},
			[]string{"trust policy"},
		},
		"chaining": {
			"ValidationError: The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
			diagnose.Sent{},
			[]string{"an hour at most", "duration: 1h"},
			[]string{"trust policy"},
		},
		"region": {
			"STS is not activated in this region for account:123456789012. Your account administrator can activate STS",
			diagnose.Sent{},
			[]string{"not activated", "region: us-east-1", "list-regions"},
			[]string{"trust policy"},
		},
		"tags": {
			strings.Replace(refused, "sts:AssumeRole", "sts:TagSession", 1),
			diagnose.Sent{Tags: true},
			[]string{"may not pass the tags", `"Action": "sts:TagSession"`, hostRole},
			[]string{"does not say"},
		},
		"SCP": {
			refused + " with an explicit deny in a service control policy: arn:aws:organizations::1:policy/o/p",
			diagnose.Sent{},
			[]string{"service control policy of the organization denies", "list-policies-for-target"},
			[]string{"possible:"},
		},
		"boundary": {refused + " with an explicit deny in a permissions boundary", diagnose.Sent{}, []string{"permissions boundary", "--role-name ec2-instance-role"}, []string{"possible:"}},
		"own policy": {
			refused + " with an explicit deny in an identity-based policy",
			diagnose.Sent{},
			[]string{"identity-based policy of the agent's own role denies", "list-attached-role-policies --role-name ec2-instance-role"},
			[]string{"possible:"},
		},
		"trust denies":     {refused + " with an explicit deny in a resource-based policy", diagnose.Sent{}, []string{"trust policy, denies", "get-role --role-name task-x"}, []string{"possible:"}},
		"own policy lacks": {refused + " because no identity-based policy allows the sts:AssumeRole action", diagnose.Sent{}, []string{"lets it assume", "into a policy of " + hostRole, taskRole}, []string{"possible:"}},
		"trust lacks":      {refused + " because no role trust policy allows the sts:AssumeRole action", diagnose.Sent{}, []string{"does not let the agent in", hostRole}, []string{"possible:"}},
		"policy too large": {"PackedPolicyTooLarge: Packed policy consumes 120%", diagnose.Sent{Policy: true}, []string{"too large"}, []string{"trust policy"}},
		"policy is wrong":  {"MalformedPolicyDocument: Syntax errors in policy.", diagnose.Sent{Policy: true}, []string{"does not understand the session policy"}, []string{"trust policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := diagnose.RefusedBySTS("AWS refuses the role "+taskRole+": "+c.says, diagnose.Role{Name: "x", Sent: c.sent})
			if x == nil {
				t.Fatal("no finding")
			}
			all := strings.Join(append(append([]string{x.What, x.Fix}, x.Evidence...), x.Commands...), "\n")
			for _, p := range x.Paste {
				all += "\n" + p.Where + "\n" + p.Text
				var document struct {
					Statement []struct{ Effect, Resource string }
				}
				if strings.HasPrefix(p.Text, "{") && (json.Unmarshal([]byte(p.Text), &document) != nil || len(document.Statement) == 0) {
					t.Errorf("no policy: %s", p.Text)
				}
			}
			for _, want := range c.want {
				if !strings.Contains(all, want) {
					t.Errorf("it lacks %q:\n%s", want, all)
				}
			}
			for _, not := range c.not {
				if strings.Contains(all, not) {
					t.Errorf("it has %q:\n%s", not, all)
				}
			}
			if x.Code != "sts-refused" || x.Severity != diagnose.Error || x.Manual == "" || len(x.Commands) == 0 || !strings.Contains(x.Evidence[0], c.says) {
				t.Errorf("%+v", x)
			}
		})
	}
}

// TestUnknownWordsOfSTSAreShownAndNoMore instead of guessed at.
func TestUnknownWordsOfSTSAreShownAndNoMore(t *testing.T) {
	const said = "AWS refuses the role " + taskRole + ": ValidationError: 1 validation error detected"
	if x := diagnose.RefusedBySTS(said, diagnose.Role{Name: "x"}); x != nil {
		t.Errorf("%+v", x)
	}
	f := with(region, other)
	f.Subject.NotRunning, f.Subject.Stopped, f.Subject.PID = true, "taskrole: "+said+" [sts-denied]", 0
	f.IMDS, f.Container = diagnose.IMDS{}, diagnose.Answer{}
	found := diagnose.Findings(f)
	if len(found) != 1 || found[0].Code != "sts-refused" || !strings.Contains(found[0].Evidence[0], said) || len(found[0].Paste) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestWordsOfAWSCannotBecomeACommand: a name in AWS's message that IAM does not allow is not taken over.
func TestWordsOfAWSCannotBecomeACommand(t *testing.T) {
	x := diagnose.RefusedBySTS("User: arn:aws:iam::123456789012:user/a$(reboot) is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/b;reboot", diagnose.Role{Name: "x"})
	for _, text := range append(x.Commands, x.Paste[0].Text) {
		if strings.Contains(text, "reboot") {
			t.Errorf("%s", text)
		}
	}
}

// TestHostsOwnIdentityIsToldApart: none, ended, unknown, a clock, a secret.
func TestHostsOwnIdentityIsToldApart(t *testing.T) {
	for says, want := range map[string][2]string{
		"this host has no AWS credentials of its own: no EC2 IMDS role found":                                                         {"host-identity-missing", "has no AWS credentials"},
		"AWS does not accept this host's own credentials: The security token included in the request is expired":                      {"host-identity-missing", "have expired"},
		"AWS does not accept this host's own credentials: The security token included in the request is invalid":                      {"host-identity-missing", "does not know"},
		"AWS does not accept this host's signature: Signature expired: 20261122T114400Z is now earlier than 20261122T114500Z":         {"clock-skew", "the host's clock"},
		"AWS does not accept this host's signature: Signature not yet current: 20261122T121600Z is still later than 20261122T121500Z": {"clock-skew", "the host's clock"},
		"AWS does not accept this host's signature: The request signature we calculated does not match the signature you provided":    {"host-identity-missing", "signature"},
	} {
		f := with(region, other)
		f.Subject.NotRunning, f.Subject.Stopped, f.Subject.PID = true, "taskrole: "+says+" [host-identity-missing]", 0
		f.IMDS, f.Container, f.Role.Wanted, f.Role.Asked = diagnose.IMDS{}, diagnose.Answer{}, "app", diagnose.AgentUp
		found := diagnose.Findings(f)
		if len(found) != 1 || string(found[0].Code) != want[0] || !strings.Contains(found[0].What, want[1]) {
			t.Errorf("%s: %+v, want only %s with %q", says, found, want[0], want[1])
		}
	}
}
