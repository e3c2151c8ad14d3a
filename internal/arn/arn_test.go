package arn_test

import (
	"strings"
	"testing"

	"taskrole/internal/arn"
)

func TestParseRole(t *testing.T) {
	for in, want := range map[string]arn.Role{
		"arn:aws:iam::012345678901:role/app":              {"aws", "012345678901", "/", "app"},
		"arn:aws-cn:iam::123456789012:role/team/a/b-role": {"aws-cn", "123456789012", "/team/a/", "b-role"},
		"arn:aws-us-gov:iam::123456789012:role/a_b+=,.@-": {"aws-us-gov", "123456789012", "/", "a_b+=,.@-"},
	} {
		got, err := arn.ParseRole(in)
		if err != nil || got != want {
			t.Errorf("ParseRole(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if got.String() != in {
			t.Errorf("ParseRole(%q).String() = %q", in, got.String())
		}
	}
}

func TestParseRoleRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "not a role ARN",
		"app":                                 "not a role ARN",
		"arn:aws:":                            "not a role ARN",
		"arn:aws:iam::12345678901:role/app":   "12 digits",
		"arn:aws:iam::1.2345679e+10:role/app": "12 digits",
		"arn:aws:iam::123456789012:user/app":  "not an IAM role",
		"arn:aws:iam:eu-west-1:123456789012:role/app":                        "not an IAM role",
		"arn:aws:s3:::bucket":                                                "not an IAM role",
		"arn:aws:sts::123456789012:assumed-role/a/b":                         "names a session",
		"arn:AWS:iam::123456789012:role/app":                                 "partition",
		"arn:aws:iam::123456789012:role/":                                    "not a role name",
		"arn:aws:iam::123456789012:role/a b":                                 "not a role name",
		"arn:aws:iam::123456789012:role//a":                                  "not a role path",
		"arn:aws:iam::123456789012:role/\n/a":                                "not a role path",
		"arn:aws:iam::123456789012:role/" + strings.Repeat("x", 65):          "not a role name",
		"arn:aws:iam::123456789012:role/" + strings.Repeat("x/", 2000) + "y": "at most 2048",
	} {
		r, err := arn.ParseRole(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRole(%q) = %v, %v; want an error with %q", in, r, err, want)
		}
	}
}

func TestSessionName(t *testing.T) {
	for in, want := range map[string]string{
		"app-3f2a91":             "app-3f2a91",
		"my app/3f":              "my-app-3f",
		"ünï":                    "--n--",
		strings.Repeat("ab", 50): strings.Repeat("ab", 32),
	} {
		got, err := arn.SessionName(in)
		if err != nil || got != want {
			t.Errorf("SessionName(%q) = %q, %v; want %q", in, got, err, want)
		}
		if err := arn.CheckSessionName(got); err != nil {
			t.Errorf("SessionName(%q) made a name STS refuses: %v", in, err)
		}
	}
	for _, in := range []string{"", "a", "///", "日本"} {
		if got, err := arn.SessionName(in); err == nil {
			t.Errorf("SessionName(%q) = %q, want an error", in, got)
		}
	}
}

func FuzzParseRole(f *testing.F) {
	f.Add("arn:aws:iam::012345678901:role/app")
	f.Add("arn:aws:iam::012345678901:role/a/b/app")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := arn.ParseRole(s)
		if err == nil && r.String() != s {
			t.Errorf("ParseRole(%q) accepted but prints %q", s, r.String())
		}
	})
}

func FuzzSessionName(f *testing.F) {
	f.Add("app/é")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := arn.SessionName(s); err == nil {
			if err := arn.CheckSessionName(n); err != nil {
				t.Error(err)
			}
		}
	})
}
