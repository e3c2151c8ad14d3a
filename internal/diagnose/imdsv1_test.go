package diagnose_test

import (
	"slices"
	"strings"
	"testing"

	"taskrole/internal/diagnose"
)

// TestClientsThatSpeakOnlyIMDSv1 are libraries of before tokens, as their version says, and what somebody names.
func TestClientsThatSpeakOnlyIMDSv1(t *testing.T) {
	for _, c := range []struct {
		sdk     diagnose.SDK
		version string // found; "" where no library was
		old     bool
	}{
		{diagnose.Botocore, "1.13.24", true},
		{diagnose.Botocore, "1.13.25", false},
		{diagnose.Botocore, "1.9", true},
		{diagnose.Botocore, "1.26.27", false},
		{diagnose.Botocore, "2.0.0dev1", false},
		{diagnose.Botocore, "unknown", false},
		{diagnose.Botocore, "", false},
		{diagnose.GoV1, "v1.25.37", true},
		{diagnose.GoV1, "v1.55.8", false},
		{diagnose.JavaV1, "1.11.677", true},
		{diagnose.JSv3, "3.0.0", false},
		{diagnose.IMDSv1, "", true},
	} {
		f := with("AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-1")
		f.SDKs = []diagnose.SDK{c.sdk}
		if c.version != "" {
			f.Libraries = []diagnose.Library{{SDK: c.sdk, Version: c.version, Path: "/usr/lib/the-sdk"}}
		}
		if got := diagnose.ChainOf(f, c.sdk).Source; got != diagnose.FromIMDS {
			t.Errorf("%s %s, version 1 is allowed: credentials from %q", c.sdk, c.version, got)
		}
		f.IMDS.V1 = diagnose.Answer{Outcome: diagnose.Answered, Status: 401}
		found := slices.ContainsFunc(diagnose.Findings(f), func(x diagnose.Finding) bool {
			told := c.version == "" || strings.Contains(strings.Join(x.Evidence, "\n"), "/usr/lib/the-sdk")
			return x.Code == "imds-v2-required" && x.Severity == diagnose.Error && told
		})
		if got := diagnose.ChainOf(f, c.sdk).Source; found != c.old || (got == diagnose.FromNowhere) != c.old {
			t.Errorf("%s %s, tokens are required: credentials from %q, imds-v2-required is named: %v, want %v", c.sdk, c.version, got, found, c.old)
		}
	}
}

// TestOnlyNamedClientsSpeakOnlyIMDSv1: a host that requires tokens is well as long as nobody names such a client.
func TestOnlyNamedClientsSpeakOnlyIMDSv1(t *testing.T) {
	if slices.Contains(diagnose.SDKs(), diagnose.IMDSv1) || !diagnose.IMDSv1.Valid() {
		t.Error("imdsv1-only must be known, and in question only where it is named")
	}
}
