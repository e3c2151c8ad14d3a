package iam_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/lab/iam"
)

const account = "123456789012"

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func policy(tb testing.TB, text string) iam.Document {
	tb.Helper()
	d, err := iam.ParsePolicy(text)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func trust(tb testing.TB, text string) iam.Document {
	tb.Helper()
	d, err := iam.ParseTrust(text)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// statement wraps one statement into a policy.
func statement(body string) string {
	return `{"Version": "2012-10-17", "Statement": [{` + body + `}]}`
}

func newRole(tb testing.TB, a *iam.Account, r iam.Role) *iam.Role {
	tb.Helper()
	role, err := a.AddRole(r)
	if err != nil {
		tb.Fatal(err)
	}
	return role
}

func TestResolveAnswersInAWSOrder(t *testing.T) {
	c := newClock()
	a := iam.NewAccount(account, c.now)
	user, err := a.AddUser(iam.User{Name: "u"})
	if err != nil {
		t.Fatal(err)
	}
	session := a.NewSession(newRole(t, a, iam.Role{Name: "r"}), iam.SessionOptions{Name: "s1", Life: time.Hour})
	token := session.Token.Reveal()
	for _, tc := range []struct {
		name, key, token string
		want             error
	}{
		{"user", user.AccessKeyID, "", nil},
		{"user_with_a_token", user.AccessKeyID, token, iam.ErrBadToken},
		{"session", session.AccessKeyID, token, nil},
		{"forgot_the_token", session.AccessKeyID, "", iam.ErrUnknownKey},
		{"token_of_another", session.AccessKeyID, token + "x", iam.ErrBadToken},
		{"unknown", "ASIAUNKNOWN", "", iam.ErrUnknownKey},
		{"unknown_with_token", "ASIAUNKNOWN", token, iam.ErrBadToken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := a.Resolve(tc.key, tc.token); !errors.Is(err, tc.want) {
				t.Errorf("Resolve = %v, want %v", err, tc.want)
			}
		})
	}
	c.advance(time.Hour - time.Second)
	if _, err := a.Resolve(session.AccessKeyID, token); err != nil {
		t.Errorf("a second before the end: %v", err)
	}
	c.advance(time.Second)
	if _, err := a.Resolve(session.AccessKeyID, token); !errors.Is(err, iam.ErrExpired) {
		t.Errorf("at the end: %v, want ErrExpired", err)
	}
	if _, err := a.Resolve(session.AccessKeyID, ""); !errors.Is(err, iam.ErrUnknownKey) {
		t.Errorf("expired and without token: %v, want ErrUnknownKey", err)
	}
}

func TestExpireEndsOneSessionAndExpireAllTheRest(t *testing.T) {
	a := iam.NewAccount(account, nil)
	user, err := a.AddUser(iam.User{Name: "u"})
	if err != nil {
		t.Fatal(err)
	}
	role := newRole(t, a, iam.Role{Name: "r"})
	first := a.NewSession(role, iam.SessionOptions{Name: "s1", Life: time.Hour})
	second := a.NewSession(role, iam.SessionOptions{Name: "s2", Life: time.Hour})
	if !a.Expire(first.AccessKeyID) || a.Expire(first.AccessKeyID) || a.Expire("ASIAUNKNOWN") || a.Expire(user.AccessKeyID) {
		t.Error("Expire must say true once, for a living session only")
	}
	if _, err := a.Resolve(first.AccessKeyID, first.Token.Reveal()); !errors.Is(err, iam.ErrExpired) {
		t.Errorf("first: %v, want ErrExpired", err)
	}
	if n := a.ExpireAll(); n != 1 {
		t.Errorf("ExpireAll = %d, want 1", n)
	}
	if _, err := a.Resolve(second.AccessKeyID, second.Token.Reveal()); !errors.Is(err, iam.ErrExpired) {
		t.Errorf("second: %v, want ErrExpired", err)
	}
	if _, err := a.Resolve(user.AccessKeyID, ""); err != nil {
		t.Errorf("user: %v, want none", err)
	}
}

func TestLimitSessions(t *testing.T) {
	a := iam.NewAccount(account, newClock().now)
	role := newRole(t, a, iam.Role{Name: "r"})
	a.LimitSessions(5 * time.Second)
	if got := a.NewSession(role, iam.SessionOptions{Name: "s1", Life: time.Hour}).Expires.Sub(a.Now()); got != 5*time.Second {
		t.Errorf("limited: %v, want 5s", got)
	}
	a.LimitSessions(0)
	if got := a.NewSession(role, iam.SessionOptions{Name: "s1", Life: time.Hour}).Expires.Sub(a.Now()); got != time.Hour {
		t.Errorf("limit taken away: %v, want 1h", got)
	}
}

// may asks one policy.
func may(tb testing.TB, text, action, resource string, c iam.Context) bool {
	tb.Helper()
	a := iam.NewAccount(account, nil)
	u, err := a.AddUser(iam.User{Name: "alice", Policies: []iam.Document{policy(tb, text)}})
	if err != nil {
		tb.Fatal(err)
	}
	return u.Principal.Authorize(iam.Request{Action: action, Resource: resource, Context: c}) == nil
}

func TestAuthorize(t *testing.T) {
	const key = "arn:aws:s3:::b/k"
	for _, tc := range []struct {
		name, policy, action, resource string
		ctx                            iam.Context
		want                           bool
	}{
		{"exact", `"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/k"`, "s3:GetObject", key, nil, true},
		{"other_action", `"Effect":"Allow","Action":"s3:PutObject","Resource":"*"`, "s3:GetObject", key, nil, false},
		{"action_without_case", `"Effect":"Allow","Action":"S3:getobject","Resource":"*"`, "s3:GetObject", key, nil, true},
		{"resource_with_case", `"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::B/k"`, "s3:GetObject", key, nil, false},
		{"wildcards", `"Effect":"Allow","Action":"s3:Get*","Resource":"arn:aws:s3:::?/*"`, "s3:GetObject", key, nil, true},
		{"not_action", `"Effect":"Allow","NotAction":"s3:Get*","Resource":"*"`, "s3:GetObject", key, nil, false},
		{"not_resource", `"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:::c/*"`, "s3:GetObject", key, nil, true},
		{"deny_wins", `"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::b/*"`, "s3:GetObject", key, nil, false},
		{"variable", `"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${aws:username}/*"`, "s3:GetObject", "arn:aws:s3:::b/alice/x", nil, true},
		{"variable_other", `"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${aws:username}/*"`, "s3:GetObject", "arn:aws:s3:::b/bob/x", nil, false},
		{"variable_without_value", `"Effect":"Allow","Action":"*","NotResource":"${aws:PrincipalTag/team}"`, "s3:GetObject", key, nil, false},
		{"variable_default", `"Effect":"Allow","Action":"*","Resource":"${aws:PrincipalTag/team, 'arn:aws:s3:::b/k'}"`, "s3:GetObject", key, nil, true},
		{"value_is_no_wildcard", `"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${s3:prefix}"`, "s3:GetObject", key, iam.Context{"s3:prefix": {"*"}}, false},
		{"escaped_star", `"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${*}"`, "s3:GetObject", key, nil, false},
		{"principal_cannot_be_claimed", `"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/team":"x"}}`, "s3:GetObject", key, iam.Context{"aws:PrincipalTag/team": {"x"}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := may(t, statement(tc.policy), tc.action, tc.resource, tc.ctx); got != tc.want {
				t.Errorf("allowed = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	for _, tc := range []struct {
		name, condition string
		ctx             iam.Context
		want            bool
	}{
		{"equals", `"StringEquals":{"K":"v"}`, iam.Context{"k": {"v"}}, true},
		{"equals_knows_no_star", `"StringEquals":{"k":"*"}`, iam.Context{"k": {"v"}}, false},
		{"alternatives", `"StringEquals":{"k":["a","v"]}`, iam.Context{"k": {"v"}}, true},
		{"missing", `"StringEquals":{"k":"v"}`, nil, false},
		{"missing_if_exists", `"StringEqualsIfExists":{"k":"v"}`, nil, true},
		{"not_equals_missing", `"StringNotEquals":{"k":"v"}`, nil, true},
		{"not_equals", `"StringNotEquals":{"k":["a","v"]}`, iam.Context{"k": {"v"}}, false},
		{"ignore_case", `"StringEqualsIgnoreCase":{"k":"V"}`, iam.Context{"k": {"v"}}, true},
		{"like", `"StringLike":{"k":"a*z"}`, iam.Context{"k": {"abcz"}}, true},
		{"not_like", `"StringNotLike":{"k":"a*z"}`, iam.Context{"k": {"abcz"}}, false},
		{"bool", `"Bool":{"k":true}`, iam.Context{"k": {"true"}}, true},
		{"bool_text", `"Bool":{"k":"false"}`, iam.Context{"k": {"true"}}, false},
		{"ip", `"IpAddress":{"k":["10.0.0.0/8","::1"]}`, iam.Context{"k": {"10.1.2.3"}}, true},
		{"ip_other", `"IpAddress":{"k":"10.0.0.0/8"}`, iam.Context{"k": {"11.1.2.3"}}, false},
		{"not_ip", `"NotIpAddress":{"k":"10.0.0.0/8"}`, iam.Context{"k": {"11.1.2.3"}}, true},
		{"null", `"Null":{"k":"true"}`, nil, true},
		{"null_there", `"Null":{"k":"true"}`, iam.Context{"k": {"v"}}, false},
		{"arn_like", `"ArnLike":{"k":"arn:aws:iam::*:role/a*"}`, iam.Context{"k": {"arn:aws:iam::123456789012:role/abc"}}, true},
		{"arn_star_stays_in_its_part", `"ArnLike":{"k":"arn:aws:*:role/abc"}`, iam.Context{"k": {"arn:aws:iam::123456789012:role/abc"}}, false},
		{"all_values", `"ForAllValues:StringEquals":{"k":["a","b"]}`, iam.Context{"k": {"a", "b"}}, true},
		{"all_values_one_too_many", `"ForAllValues:StringEquals":{"k":["a","b"]}`, iam.Context{"k": {"a", "c"}}, false},
		{"all_values_of_none", `"ForAllValues:StringEquals":{"k":"a"}`, nil, true},
		{"any_value", `"ForAnyValue:StringEquals":{"k":"a"}`, iam.Context{"k": {"c", "a"}}, true},
		{"any_value_of_none", `"ForAnyValue:StringEquals":{"k":"a"}`, nil, false},
		{"both_must_hold", `"StringEquals":{"k":"v","l":"w"}`, iam.Context{"k": {"v"}, "l": {"x"}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := statement(`"Effect":"Allow","Action":"*","Resource":"*","Condition":{` + tc.condition + `}`)
			if got := may(t, text, "s3:GetObject", "arn:aws:s3:::b", tc.ctx); got != tc.want {
				t.Errorf("holds = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestParsePolicyRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, text := range map[string]string{
		"empty":            ``,
		"not_json":         `{`,
		"no_statement":     `{"Version":"2012-10-17"}`,
		"version":          `{"Version":"2020-01-01","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`,
		"more":             statement(`"Effect":"Allow","Action":"*","Resource":"*"`) + "{}",
		"effect":           statement(`"Effect":"allow","Action":"*","Resource":"*"`),
		"no_action":        statement(`"Effect":"Allow","Resource":"*"`),
		"both_actions":     statement(`"Effect":"Allow","Action":"*","NotAction":"*","Resource":"*"`),
		"no_resource":      statement(`"Effect":"Allow","Action":"*"`),
		"action":           statement(`"Effect":"Allow","Action":"GetObject","Resource":"*"`),
		"principal":        statement(`"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"`),
		"unknown_member":   statement(`"Effect":"Allow","Action":"*","Resource":"*","Resources":"*"`),
		"operator":         statement(`"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringAlmost":{"k":"v"}}`),
		"date_operator":    statement(`"Effect":"Allow","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}`),
		"null_if_exists":   statement(`"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NullIfExists":{"k":"true"}}`),
		"number_in_a_list": statement(`"Effect":"Allow","Action":["*",1],"Resource":"*"`),
	} {
		if _, err := iam.ParsePolicy(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, text := range map[string]string{
		"no_principal":    statement(`"Effect":"Allow","Action":"sts:AssumeRole"`),
		"not_principal":   statement(`"Effect":"Allow","Action":"sts:AssumeRole","NotPrincipal":{"AWS":"*"}`),
		"resource":        statement(`"Effect":"Allow","Action":"sts:AssumeRole","Principal":"*","Resource":"*"`),
		"empty_principal": statement(`"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":""}`),
		"unknown_kind":    statement(`"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"GCP":"x"}`),
	} {
		if _, err := iam.ParseTrust(text); err == nil {
			t.Errorf("trust %s: accepted", name)
		}
	}
}

func TestSessionPolicyNarrows(t *testing.T) {
	a := iam.NewAccount(account, nil)
	role := newRole(t, a, iam.Role{Name: "r", Policies: []iam.Document{policy(t, statement(`"Effect":"Allow","Action":"s3:Get*","Resource":"*"`))}})
	p := a.NewSession(role, iam.SessionOptions{Name: "s1", Life: time.Hour, Policies: []iam.Document{
		policy(t, statement(`"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":"*"`)),
	}}).Principal
	for action, reason := range map[string]string{
		"s3:GetObject":    "",
		"s3:GetObjectAcl": "because no session policy allows the s3:GetObjectAcl action",
		"s3:PutObject":    "because no identity-based policy allows the s3:PutObject action",
	} {
		var d *iam.DeniedError
		err := p.Authorize(iam.Request{Action: action, Resource: "arn:aws:s3:::b/k"})
		if reason == "" && err != nil || reason != "" && (!errors.As(err, &d) || d.Reason != reason) {
			t.Errorf("%s: %v, want %q", action, err, reason)
		}
	}
}

func TestServiceControlPolicyNarrowsTheWholeAccount(t *testing.T) {
	a := iam.NewAccount(account, newClock().now)
	all := policy(t, statement(`"Effect": "Allow", "Action": "*", "Resource": "*"`))
	user, err := a.AddUser(iam.User{Name: "u", Policies: []iam.Document{all}})
	if err != nil {
		t.Fatal(err)
	}
	role := newRole(t, a, iam.Role{Name: "r", Trust: trust(t, statement(`"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "`+user.Principal.ARN+`"}`))})
	get := iam.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/k"}
	for name, c := range map[string]struct {
		policies []iam.Document
		want     string
	}{
		"none":  {nil, ""},
		"all":   {[]iam.Document{all}, ""},
		"other": {[]iam.Document{policy(t, statement(`"Effect": "Allow", "Action": "ec2:*", "Resource": "*"`))}, "because no service control policy allows the"},
		"deny":  {[]iam.Document{all, policy(t, statement(`"Effect": "Deny", "Action": ["s3:*", "sts:*"], "Resource": "*"`))}, "with an explicit deny in a service control policy"},
	} {
		a.Restrict(c.policies...)
		for _, err := range []error{user.Principal.Authorize(get), user.Principal.AuthorizeTrust("sts:AssumeRole", role, nil)} {
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
		}
	}
}

func TestAuthorizeTrust(t *testing.T) {
	const (
		root  = "arn:aws:iam::123456789012:root"
		named = "arn:aws:iam::123456789012:role/caller"
	)
	allowAssume := statement(`"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"`)
	allowS3 := statement(`"Effect":"Allow","Action":"s3:*","Resource":"*"`)
	denyAssume := statement(`"Effect":"Deny","Action":"sts:AssumeRole","Resource":"*"`)
	for _, tc := range []struct {
		name, principal, identity, session string
		want                               bool
	}{
		{"account_and_identity", root, allowAssume, "", true},
		{"account_without_identity", root, allowS3, "", false},
		{"number_and_identity", account, allowAssume, "", true},
		{"role_without_identity", named, allowS3, "", true},
		{"session_without_identity", "arn:aws:sts::123456789012:assumed-role/caller/s1", allowS3, "", true},
		{"role_and_deny", named, denyAssume, "", false},
		{"role_and_session_policy", named, allowS3, allowS3, false},
		{"role_and_good_session_policy", named, allowS3, allowAssume, true},
		{"another_role", "arn:aws:iam::123456789012:role/other", allowAssume, "", false},
		{"another_account", "arn:aws:iam::210987654321:root", allowAssume, "", false},
		{"same_name_under_a_path", "arn:aws:iam::123456789012:role/p/caller", allowAssume, "", false},
		{"no_wildcard", "arn:aws:iam::123456789012:role/*", allowAssume, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := iam.NewAccount(account, nil)
			caller := newRole(t, a, iam.Role{Name: "caller", Policies: []iam.Document{policy(t, tc.identity)}})
			o := iam.SessionOptions{Name: "s1", Life: time.Hour}
			if tc.session != "" {
				o.Policies = []iam.Document{policy(t, tc.session)}
			}
			target := newRole(t, a, iam.Role{Name: "target", Trust: trust(t, statement(`"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":"`+tc.principal+`"}`))})
			err := a.NewSession(caller, o).Principal.AuthorizeTrust("sts:AssumeRole", target, nil)
			if (err == nil) != tc.want {
				t.Errorf("AuthorizeTrust = %v, want allowed %v", err, tc.want)
			}
		})
	}
}

func TestRoleIsFoundByItsWholeARN(t *testing.T) {
	a := iam.NewAccount(account, nil)
	newRole(t, a, iam.Role{Name: "r", Path: "/team/"})
	for arn, want := range map[string]bool{
		"arn:aws:iam::123456789012:role/team/r":    true,
		"arn:aws:iam::123456789012:role/r":         false,
		"arn:aws-cn:iam::123456789012:role/team/r": false,
		"arn:aws:iam::210987654321:role/team/r":    false,
		"nonsense":                                 false,
	} {
		if got := a.Role(arn) != nil; got != want {
			t.Errorf("Role(%s) found = %v, want %v", arn, got, want)
		}
	}
	if _, err := a.AddRole(iam.Role{Name: "r"}); err == nil {
		t.Error("a second role of the same name was accepted")
	}
}

// FuzzPolicy: the parser never crashes, and adding a Deny, whatever it says, never grants what was not granted.
func FuzzPolicy(f *testing.F) {
	f.Add(statement(`"Effect":"Allow","Action":"s3:*","Resource":"*"`), statement(`"Effect":"Deny","NotAction":"s3:Get*","Resource":"*"`), "s3:GetObject", "arn:aws:s3:::b/k", "v")
	f.Add(statement(`"Effect":"Allow","Action":"*","Resource":"${k}","Condition":{"ForAllValues:StringNotLike":{"k":"*a?"}}`), statement(`"Effect":"Deny","Action":"*","NotResource":"${x, 'y'}"`), "sts:AssumeRole", "x", "x")
	f.Add(statement(`"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NotIpAddress":{"k":"::/0"},"Null":{"k":"false"}}`), statement(`"Effect":"Deny","Action":"*","Resource":"****a***b"`), "a:b", "arn:aws:s3:::b", "10.0.0.1")
	f.Fuzz(func(t *testing.T, text, denial, action, resource, value string) {
		p, err := iam.ParsePolicy(text)
		if err != nil {
			return
		}
		d, err := iam.ParsePolicy(denial)
		if err != nil || strings.Contains(denial, "Allow") || strings.Contains(denial, `\`) {
			return
		}
		a := iam.NewAccount(account, nil)
		r := iam.Request{Action: action, Resource: resource, Context: iam.Context{"k": {value}}}
		before, err1 := a.AddUser(iam.User{Name: "u", Policies: []iam.Document{p}})
		after, err2 := a.AddUser(iam.User{Name: "u", Policies: []iam.Document{d, p}})
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		was := before.Principal.Authorize(r)
		if is := after.Principal.Authorize(r); was != nil && is == nil {
			t.Errorf("%s on %s is allowed by adding %s to %s", action, resource, denial, text)
		}
	})
}
