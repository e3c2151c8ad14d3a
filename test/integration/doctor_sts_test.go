//go:build integration

package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"taskrole/internal/fault"
	"taskrole/internal/secret"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/iam"
)

// The words that the doctor must have for what AWS does not say.
var unsaid = []string{"AWS does not say what is missing", "role/ec2-instance-role", "NoSuchEntity"}

// stsCase is a role of the account that STS refuses to the instance for one reason.
type stsCase struct {
	name   string // in the configuration
	role   string // of the account; "" where there is none
	trust  string // its trust policy's statements, with HOST, ACCOUNT
	config string // further lines of the role in the configuration
	words  []string
	host   string // "user": the agent is an IAM user; "": the instance's role
}

const named = `{"Effect": "Allow", "Principal": {"AWS": "HOST"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}`

func stsCases() []stsCase {
	const external = `{"Effect": "Allow", "Principal": {"AWS": "HOST"}, "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"sts:ExternalId": "expected"}}}`
	long := strings.Repeat("x", 250)
	return []stsCase{
		{"trusts-another", "task-ec2-only", `{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}`, "", unsaid, ""},
		{"external-missing", "task-wants-id", external, "", append([]string{"sends no external id"}, unsaid...), ""},
		{"external-wrong", "task-wants-id", external, "    external_id: something-else\n", append([]string{"sends the external id something-else", `"sts:ExternalId": "something-else"`}, unsaid...), ""},
		{"not-there", "task-nowhere", "", "", unsaid, ""},
		{"account-only", "other-team", `{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::ACCOUNT:root"}, "Action": "sts:AssumeRole"}`, "", append([]string{"names only the account"}, unsaid...), ""},
		{"tags-not-allowed", "task-no-tags", `{"Effect": "Allow", "Principal": {"AWS": "HOST"}, "Action": "sts:AssumeRole"}`, "    tags: {team: \"a\"}\n", []string{"may not pass the tags", "sts:TagSession"}, ""},
		{"trust-denies", "task-shut", `{"Effect": "Deny", "Principal": {"AWS": "HOST"}, "Action": "sts:AssumeRole"}`, "", []string{"trust policy, denies"}, ""},
		{"own-policy-denies", "task-denied", named, "", []string{"identity-based policy of the agent's own role denies"}, ""},
		{"scp-denies", "task-scp", named, "", []string{"service control policy of the organization denies"}, ""},
		{"region-off", "task-region", named, "    region: " + cloud.DisabledRegion + "\n", []string{"not activated", "region: us-east-1"}, ""},
		{"policy-wrong", "task-policy", named, "    policy: '{\"Version\": \"2012-10-17\"}'\n", []string{"does not understand the session policy"}, ""},
		{
			"policy-large", "task-policy-2", named,
			"    policy: '{\"Version\": \"2012-10-17\", \"Id\": \"" + strings.Repeat("x", 1600) + "\"}'\n    tags: {a: \"" + long + "\", b: \"" + long + "\"}\n",
			[]string{"too large for STS"},
			"",
		},
		{"session-long", "task-short", named, "    duration: 4h\n", []string{"shorter than 4h0m0s", "duration: 1h", "--max-session-duration 14400"}, "user"},
		{renewed, "task-renewed", named, "", nil, "user"},
	}
}

// renewed is a role that is given first and refused later.
const renewed = "renewed"

// stsReasons makes STS refuse for every reason it has.
func (w *world) stsReasons(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	user := w.addSTSRoles(t)
	t.Cleanup(func() { w.restart(t) }) // with the configuration of the other tests
	check(t, w.stopAgent(os.Interrupt))
	w.rewriteRoles(t)
	check(t, w.startAgent(t.Context()))
	var byRole, byUser []injected
	for _, c := range stsCases() {
		i := injected{name: "STS " + c.name, want: "sts-refused", c: ec2.Container{Role: c.name, Network: ec2.NetworkNone}, says: c.words}
		switch {
		case c.name == renewed:
		case c.host == "user":
			byUser = append(byUser, i)
		default:
			byRole = append(byRole, i)
		}
	}
	w.try(t, all, byRole)
	out, _ := w.askDoctor(t, "roles", "--check", "--config", w.configPath())
	for _, c := range stsCases() {
		if c.host != "" {
			continue
		}
		_, said, _ := strings.Cut(string(out), "FAILED  "+c.name+" ")
		said, _, _ = strings.Cut(said, "FAILED ")
		for _, word := range c.words {
			if !strings.Contains(said, word) {
				t.Errorf("roles --check says of %s %q, want it to contain %q", c.name, said, word)
			}
		}
	}
	w.restart(t, "env", "AWS_ACCESS_KEY_ID="+user.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+user.Secret.Reveal())
	w.try(t, all, byUser)
	w.try(t, all, []injected{w.renewal(t)})
}

// renewal is a role that a running container has and that STS does not renew any more, until nothing valid is left.
func (w *world) renewal(t *testing.T) injected {
	t.Helper()
	deny := w.policy(t, `{"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": "`+cloud.RoleARN("task-renewed")+`"}`)
	all := w.policy(t, `{"Effect": "Allow", "Action": "*", "Resource": "*"}`)
	return injected{
		name: "renewal refused", want: "sts-refused", c: ec2.Container{Role: renewed, Network: ec2.NetworkNone},
		says: []string{"expired at", "service control policy of the organization denies"},
		before: func(*testing.T, *world) func() {
			w.cloud.Account().LimitSessions(3 * time.Second)
			return func() { w.cloud.Account().LimitSessions(0); w.cloud.Account().Restrict() }
		},
		during: func(t *testing.T, w *world, _ string) func() {
			w.cloud.Account().Restrict(all, deny)
			eventually(t, func() error {
				for _, a := range w.attached(t) {
					if a.Role == renewed && a.Trouble != nil && a.Trouble.Code == fault.CredentialsExpired {
						return nil
					}
				}
				return errors.New("the credentials are still valid")
			})
			return func() {}
		},
	}
}

// addSTSRoles puts the roles into the account, once, and returns the credentials of a user that may assume all of them.
func (w *world) addSTSRoles(t *testing.T) *iam.Credential {
	t.Helper()
	account := w.cloud.Account()
	user, err := account.AddUser(iam.User{Name: fmt.Sprintf("on-premises-%d", time.Now().UnixNano()), Secret: secret.New("not-a-secret-of-anybody"), Policies: []iam.Document{w.policy(t,
		`{"Effect": "Allow", "Action": "sts:*", "Resource": "*"}`)}})
	check(t, err)
	for _, c := range stsCases() {
		if c.trust == "" || account.Role(cloud.RoleARN(c.role)) != nil {
			continue
		}
		text := strings.NewReplacer("HOST", cloud.RoleARN(cloud.InstanceRole), "ACCOUNT", cloud.AccountID).Replace(c.trust)
		if c.host == "user" {
			text = strings.ReplaceAll(c.trust, "HOST", user.Principal.ARN)
		}
		trust, err := iam.ParseTrust(`{"Version": "2012-10-17", "Statement": [` + text + `]}`)
		check(t, err)
		_, err = account.AddRole(iam.Role{Name: c.role, Trust: trust})
		check(t, err)
	}
	account.Restrict(w.policy(t, `{"Effect": "Allow", "Action": "*", "Resource": "*"}`),
		w.policy(t, `{"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": "`+cloud.RoleARN("task-scp")+`"}`))
	t.Cleanup(func() { account.Restrict() })
	return user
}

func (w *world) policy(t *testing.T, statement string) iam.Document {
	t.Helper()
	d, err := iam.ParsePolicy(`{"Version": "2012-10-17", "Statement": [` + statement + `]}`)
	check(t, err)
	return d
}

// rewriteRoles adds the roles to the configuration.
func (w *world) rewriteRoles(t *testing.T) {
	t.Helper()
	text := w.config()
	for _, c := range stsCases() {
		text += fmt.Sprintf("  %s:\n    arn: %s\n%s    allow: [{any: true}]\n", c.name, cloud.RoleARN(c.role), c.config)
	}
	check(t, os.WriteFile(w.configPath(), []byte(text), 0o600))
	t.Cleanup(func() { check(t, os.WriteFile(w.configPath(), []byte(w.config()), 0o600)) })
}
