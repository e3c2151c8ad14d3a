package diagnose_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/diagnose"
)

// codes are the findings, in order.
func codes(f *diagnose.Facts) []string {
	var got []string
	for _, x := range diagnose.Findings(f) {
		got = append(got, string(x.Code))
	}
	return got
}

// TestFindings: exactly the cause, and nothing that only follows from it.
func TestFindings(t *testing.T) {
	keys := func(id string, more ...string) []string {
		return append([]string{"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + secret, region, other}, more...)
	}
	answer := func(o diagnose.Outcome, status int) diagnose.Answer {
		return diagnose.Answer{URL: "http://169.254.169.254/", Outcome: o, Status: status}
	}
	cases := map[string]findingCase{
		"a role, all well":  {[]string{rel, region, other}, nil, nil},
		"session, all well": {keys(asia, "AWS_SESSION_TOKEN=x"), nil, nil},
		"host's role":       {[]string{region, other}, nil, []string{"host-role"}},
		"token forgotten":   {keys(asia), nil, []string{"session-token-missing"}},
		"long-lived":        {keys(akia), nil, []string{"keys-long-lived"}},
		"foreign token":     {keys(akia, "AWS_SESSION_TOKEN=x"), nil, []string{"session-token-unexpected"}},
		"stale token": {
			keys(asia, "AWS_SESSION_TOKEN=x", "AWS_SECURITY_TOKEN=y"),
			func(f *diagnose.Facts) { f.TokensDiffer = true },
			[]string{"session-token-stale"},
		},
		"old token's name": {keys(asia, "AWS_SECURITY_TOKEN=y"), nil, []string{"session-token-stale"}},
		"partial":          {[]string{"AWS_ACCESS_KEY_ID=" + asia, rel, region, other}, nil, []string{"credentials-partial"}},
		"expired in env":   {keys(asia, "AWS_SESSION_TOKEN=x", "AWS_CREDENTIAL_EXPIRATION=2026-11-25T11:00:00Z"), nil, []string{"credentials-expired"}},
		"expired document": {[]string{rel, region, other}, func(f *diagnose.Facts) { f.Container.Doc.Expires = now.Add(-time.Hour) }, []string{"credentials-expired"}},
		"profile missing":  {[]string{rel, region, other, "AWS_PROFILE=nope"}, nil, []string{"profile-missing"}},
		"web identity":     {[]string{region, other, "AWS_WEB_IDENTITY_TOKEN_FILE=/t"}, func(f *diagnose.Facts) { f.WebIdentity = missing("/t") }, []string{"web-identity-incomplete"}},
		"empty URI":        {[]string{region, other, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="}, nil, []string{"uri-empty"}},
		"no slash":         {[]string{region, other, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=creds"}, nil, []string{"uri-malformed"}},
		"refused host":     {[]string{region, other, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://10.0.0.1/c"}, nil, []string{"full-uri-refused"}},
		"newline": {
			[]string{region, other, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/t"},
			func(f *diagnose.Facts) { f.TokenFile = diagnose.File{Path: "/t", State: diagnose.Read, Newline: true} },
			[]string{"token-file-newline"},
		},
		"proxy":         {[]string{rel, region, other, "HTTP_PROXY=http://10.0.0.1:3128"}, nil, []string{"proxy-takes-metadata"}},
		"proxy, except": {[]string{rel, region, other, "HTTP_PROXY=http://10.0.0.1:3128", "NO_PROXY=169.254.170.2"}, nil, nil},
		"mode":          {[]string{rel, region, other, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=ipv6"}, nil, []string{"endpoint-mode-invalid"}},
		"partition":     {[]string{rel, "AWS_REGION=cn-north-1", "AWS_DEFAULT_REGION=cn-north-1"}, nil, []string{"partition-mismatch"}},
		"clock": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.IMDS.Token.HasDate, f.IMDS.Token.Skew = true, time.Hour
		}, []string{"clock-skew"}},
		"no network": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Unreachable, 0), V1: answer(diagnose.Unreachable, 0)}
			f.Net.Known = true
		}, []string{"imds-unreachable"}},
		"guarded": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Dropped, 0), V1: answer(diagnose.Dropped, 0)}
			f.Net, f.Host.Guard = diagnose.Network{Known: true, Routed: true, Devices: []string{"eth0"}}, "enforce"
		}, []string{"imds-guarded"}},
		"disabled":  {[]string{region, other, "AWS_EC2_METADATA_DISABLED=true"}, nil, []string{"imds-disabled"}},
		"ambiguous": {[]string{rel, region, other, "AWS_EC2_METADATA_DISABLED=1"}, nil, []string{"imds-disabled-ambiguous"}},
		"throttled": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Answered, 429), V1: answer(diagnose.Answered, 429)}
		}, []string{"imds-throttled"}},
		"hop limit": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Silent, 0), V1: answer(diagnose.Answered, 401)}
		}, []string{"imds-hop-limit"}},
		"fallback": {[]string{region, other}, func(f *diagnose.Facts) { f.IMDS.Token = answer(diagnose.Silent, 0) }, []string{"imds-hop-limit", "imds-v1-fallback"}},
		"no token given": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Answered, 405), V1: answer(diagnose.Answered, 401)}
		}, []string{"imds-v2-required"}},
		"IMDS off": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Answered, 403), V1: answer(diagnose.Answered, 403)}
		}, []string{"imds-off"}},
		"instance without a role": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS.V2.Status, f.IMDS.Role = 404, ""
		}, []string{"imds-no-role"}},
		"region":    {[]string{rel}, nil, []string{"region-missing"}},
		"both URIs": {[]string{rel, region, other, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c"}, nil, []string{"both-uris"}},
		"keys win":  {keys(asia, "AWS_SESSION_TOKEN=x"), func(f *diagnose.Facts) { f.Role.Name = "app" }, []string{"keys-shadow-role"}},
		"file wins": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Credentials = file("/root/.aws/credentials", map[string]diagnose.Profile{"default": {Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true, Token: true}})
			f.HomeFile = f.Credentials
		}, []string{"file-shadows-role"}},
		"IPv6 endpoint, no IPv6": {[]string{region, other, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://[fd00:ec2::23]/v1/credentials"}, func(f *diagnose.Facts) {
			f.Container = diagnose.Answer{URL: "http://[fd00:ec2::23]/v1/credentials", Outcome: diagnose.Unreachable}
			f.Net.IPv6 = "net.ipv6.conf.lo.disable_ipv6 is 1"
		}, []string{"ipv6-off", "full-uri-refused"}},
		"IPv6 IMDS, no IPv6": {[]string{region, other, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}, func(f *diagnose.Facts) {
			gone := diagnose.Answer{URL: "http://[fd00:ec2::254]/latest/api/token", Outcome: diagnose.Unreachable}
			f.IMDS, f.Net.IPv6, f.Net.Devices = diagnose.IMDS{Token: gone, V1: gone}, "net.ipv6.conf.lo.disable_ipv6 is 1", []string{"eth0"}
		}, []string{"ipv6-off"}},
		"IPv6 IMDS, no route": {[]string{region, other, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}, func(f *diagnose.Facts) {
			gone := diagnose.Answer{URL: "http://[fd00:ec2::254]/latest/api/token", Outcome: diagnose.Unreachable}
			f.IMDS, f.Net.IPv6, f.Net.Devices, f.Net.Routed = diagnose.IMDS{Token: gone, V1: gone}, diagnose.IPv6On, []string{"eth0"}, true
		}, []string{"imds-unreachable"}},
		"endpoint silent":        {[]string{rel, region, other}, func(f *diagnose.Facts) { f.Container = answer(diagnose.Dropped, 0) }, []string{"container-endpoint-unreachable"}},
		"endpoint fails":         {[]string{rel, region, other}, func(f *diagnose.Facts) { f.Container = answer(diagnose.Answered, 500) }, []string{"container-endpoint-error"}},
		"endpoint's document":    {[]string{rel, region, other}, func(f *diagnose.Facts) { f.Container.Doc.Expires = time.Time{} }, []string{"credentials-incomplete"}},
		"something else answers": {[]string{rel, region, other}, func(f *diagnose.Facts) { f.Container.Doc = diagnose.Document{} }, []string{"endpoint-foreign"}},
		"agent down": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentDown, Wanted: "app"}
			f.Container = answer(diagnose.Refused, 0)
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Refused, 0), V1: answer(diagnose.Refused, 0), Local: true}
			f.Net.OnLo = []string{"169.254.170.2"}
		}, []string{"agent-down"}},
		"not attached": {[]string{region, other, "TASKROLE=app"}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Wanted: "app"}
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Unreachable, 0), V1: answer(diagnose.Unreachable, 0)}
		}, []string{"role-not-attached"}},
		"addresses gone": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Missing: []string{"169.254.170.2"}}
			f.Container = answer(diagnose.Unreachable, 0)
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Unreachable, 0), V1: answer(diagnose.Unreachable, 0)}
		}, []string{"addresses-missing"}},
		"policy says no": {[]string{region, other, "AWS_EC2_METADATA_DISABLED=true"}, func(f *diagnose.Facts) {
			f.Subject.NotRunning, f.Subject.Stopped = true, "taskrole: no [role-not-allowed]"
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Wanted: "app", Denied: true, Trace: []string{"rule 1: no match"}}
		}, []string{"role-refused"}},
		"STS says no": {[]string{region, other}, func(f *diagnose.Facts) {
			f.Subject.NotRunning, f.Subject.Stopped = true, "taskrole: no [sts-denied]"
			f.IMDS, f.Container = diagnose.IMDS{}, diagnose.Answer{}
		}, []string{"sts-refused"}},
	}
	stopped := func(text string) func(*diagnose.Facts) {
		return func(f *diagnose.Facts) {
			f.Subject.NotRunning, f.Subject.Stopped, f.Subject.PID = true, text, 0
			f.IMDS, f.Container, f.Role.Wanted, f.Role.Asked = diagnose.IMDS{}, diagnose.Answer{}, "app", diagnose.AgentUp
		}
	}
	host := func(edit func(*diagnose.Facts)) func(*diagnose.Facts) {
		return func(f *diagnose.Facts) {
			*f = diagnose.Facts{Host: diagnose.Host{Looked: true, Root: true, Cgroup: "v2", Now: now}, Role: diagnose.Role{Asked: diagnose.AgentUp}}
			edit(f)
		}
	}
	maps.Copy(cases, map[string]findingCase{
		"no host identity": {[]string{region, other}, stopped("taskrole: no [host-identity-missing]"), []string{"host-identity-missing"}},
		"no such role":     {[]string{region, other}, stopped("taskrole: no [role-unknown]"), []string{"role-refused"}},
		"agent was down":   {[]string{region, other}, stopped("taskrole: no [agent-unreachable]"), []string{"agent-down"}},
		"renewal refused": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Problem: "AWS refuses the role x: User: y is not authorized to perform: sts:AssumeRole [sts-denied]"}
		}, []string{"sts-refused"}},
		"renewal refused, and over": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Problem: "the credentials of the role ended at noon; AWS refuses the role x: not authorized [credentials-expired]"}
		}, []string{"sts-refused"}},
		"renewal not answered, and over": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Problem: "the credentials of the role ended at noon; STS does not answer [credentials-expired]"}
		}, []string{"sts-unreachable"}},
		"no identity for the renewal": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.Role = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Problem: "the credentials of the role ended at noon; this host has no AWS credentials of its own [credentials-expired]"}
		}, []string{"host-identity-missing"}},
		"STS is away":       {[]string{region, other}, stopped("taskrole: STS does not answer [sts-unreachable]"), []string{"sts-unreachable"}},
		"refused for else":  {[]string{region, other}, stopped("taskrole: no [namespace-shared]"), []string{"start-refused"}},
		"stopped by itself": {[]string{region, other}, stopped(""), nil},
		"failed by itself":  {[]string{region, other}, stopped("exec: \"sh\": not found"), nil},
		"host, all well":    {nil, host(func(*diagnose.Facts) {}), nil},
		"host, agent down":  {nil, host(func(f *diagnose.Facts) { f.Role.Asked = diagnose.AgentDown }), []string{"agent-down"}},
		"host, config":      {nil, host(func(f *diagnose.Facts) { f.Host.ConfigError = "c.yaml:1:1: no" }), []string{"config-invalid"}},
		"host, engine":      {nil, host(func(f *diagnose.Facts) { f.Host.Engine = "silent" }), []string{"engine-unreachable"}},
		"host, cgroup v1":   {nil, host(func(f *diagnose.Facts) { f.Host.Cgroup = "v1" }), []string{"cgroup-v1"}},
		"host, Linux 5.4":   {nil, host(func(f *diagnose.Facts) { f.Host.SkLookup = "Linux 5.4" }), []string{"kernel-without-sk-lookup"}},
		"port on old kernel": {[]string{region, other}, func(f *diagnose.Facts) {
			stopped("taskrole: a program in its network already has 169.254.170.2:80 [port-taken]")(f)
			f.Host.SkLookup = "Linux 5.4"
		}, []string{"port-conflict"}},
		"key in a file": {[]string{region, other}, func(f *diagnose.Facts) {
			f.Credentials = file("/root/.aws/credentials", map[string]diagnose.Profile{"default": {Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true}})
		}, []string{"keys-long-lived-in-file"}},
		"token forgotten in a file": {[]string{region, other}, func(f *diagnose.Facts) {
			f.Credentials = file("/root/.aws/credentials", map[string]diagnose.Profile{"default": {Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true}})
		}, []string{"session-token-missing"}},
		"half a profile": {[]string{region, other}, func(f *diagnose.Facts) {
			f.Credentials = file("/root/.aws/credentials", map[string]diagnose.Profile{"default": {Kind: diagnose.Temporary, Masked: "ASIA…1234"}})
		}, []string{"credentials-partial"}},
		"key in the image": {[]string{rel, region, other}, func(f *diagnose.Facts) {
			f.ImageKeys = []diagnose.ImageKey{{Layer: 2, Kind: diagnose.LongLived, Masked: "AKIA…1234"}, {Layer: 3, Kind: diagnose.Temporary, Masked: "ASIA…1234"}}
		}, []string{"keys-long-lived-in-image"}},
		"token unreadable": {
			[]string{region, other, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/t"},
			func(f *diagnose.Facts) { f.TokenFile = missing("/t") },
			[]string{"token-file-unreadable"},
		},
		"nothing at all": {[]string{region, other}, func(f *diagnose.Facts) {
			f.IMDS = diagnose.IMDS{Token: answer(diagnose.Answered, 400), V1: answer(diagnose.Answered, 200)}
		}, []string{"no-credentials"}},
	})
	seen := map[string]bool{}
	for name, c := range cases {
		f := with(c.env...)
		if c.edit != nil {
			c.edit(f)
		}
		if diff := cmp.Diff(c.want, codes(f)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		for _, code := range c.want {
			seen[code] = true
		}
	}
	for _, code := range diagnose.Codes() {
		if !seen[string(code)] {
			t.Errorf("no case has the finding %s", code)
		}
	}
}

// findingCase is a process and what is wrong with it.
type findingCase struct {
	env  []string
	edit func(*diagnose.Facts)
	want []string
}

func TestEveryFindingHasEvidenceAndAWayOut(t *testing.T) {
	f := with("AWS_ACCESS_KEY_ID="+asia, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_EC2_METADATA_DISABLED=1", "AWS_PROFILE=nope", "HTTP_PROXY=http://p")
	found := diagnose.Findings(f)
	if len(found) < 2 {
		t.Fatalf("only %d findings", len(found))
	}
	for _, x := range found {
		if len(x.Evidence) == 0 || x.Fix == "" || len(x.Commands) == 0 || x.What == "" || x.Manual != "doc/doctor.md#"+string(x.Code) {
			t.Errorf("%s is not complete: %+v", x.Code, x)
		}
	}
}

// TestManualHasAHeadingForEveryFinding keeps the list and doc/doctor.md equal.
func TestManualHasAHeadingForEveryFinding(t *testing.T) {
	b, err := os.ReadFile("../../doc/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^### (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		headings = append(headings, m[1])
	}
	slices.Sort(headings)
	var want []string
	for _, c := range diagnose.Codes() {
		want = append(want, string(c))
	}
	if diff := cmp.Diff(want, headings); diff != "" {
		t.Errorf("doc/doctor.md and the rules differ:\n%s", diff)
	}
	for _, h := range headings {
		_, body, _ := strings.Cut(string(b), "\n### "+h+"\n")
		body, _, _ = strings.Cut(body, "\n#")
		if len(strings.Fields(body)) < 12 {
			t.Errorf("doc/doctor.md says next to nothing about %s", h)
		}
	}
}
