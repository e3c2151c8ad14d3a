package diagnose_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"taskrole/internal/diagnose"
)

// someVariables are what the environment may hold, each with values that matter. "" after the = is an empty value.
var someVariables = [][]string{
	{"AWS_ACCESS_KEY_ID=" + asia, "AWS_ACCESS_KEY_ID=" + akia, "AWS_ACCESS_KEY_ID="},
	{"AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SECRET_ACCESS_KEY="},
	{"AWS_SESSION_TOKEN=x"},
	{"AWS_SECURITY_TOKEN=x"},
	{"AWS_ACCESS_KEY=" + asia, "AWS_SECRET_KEY=" + secret},
	{"AWS_PROFILE=nope", "AWS_PROFILE=p"},
	{"AWS_DEFAULT_PROFILE=nope"},
	{"AWS_WEB_IDENTITY_TOKEN_FILE=/t"},
	{"AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"},
	{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=creds"},
	{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://10.0.0.1/c", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.2/c"},
	{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/auth"},
	{"AWS_EC2_METADATA_DISABLED=true", "AWS_EC2_METADATA_DISABLED=1", "AWS_EC2_METADATA_DISABLED=false"},
	{"HTTP_PROXY=http://10.0.0.1:3128"},
	{"NO_PROXY=169.254.170.2"},
	{"AWS_REGION=us-east-1"},
	{"AWS_DEFAULT_REGION=us-east-1"},
}

// pick is one of several, or, now and then, none.
func pick[T any](r *rand.Rand, often float64, list []T) (t T, ok bool) {
	if r.Float64() >= often || len(list) == 0 {
		return t, false
	}
	return list[r.IntN(len(list))], true
}

// anyFacts are facts of a process as they can come together.
func anyFacts(r *rand.Rand) *diagnose.Facts {
	var env []string
	for _, v := range someVariables {
		if kv, ok := pick(r, 0.15, v); ok {
			env = append(env, kv)
		}
	}
	f := with(env...)
	f.Net = diagnose.Network{Known: true, Devices: []string{"eth0"}, Routed: true}
	profiles := map[string]diagnose.Profile{}
	for _, name := range []string{"default", "p"} {
		if p, ok := pick(r, 0.2, []diagnose.Profile{
			{Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true, Token: true},
			{Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true},
			{Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true},
			{Kind: diagnose.LongLived, Masked: "AKIA…1234"},
			{Region: "us-east-1"},
		}); ok {
			profiles[name] = p
		}
	}
	if len(profiles) > 0 {
		f.Credentials = file("/root/.aws/credentials", profiles)
		f.HomeFile = f.Credentials
	}
	token := diagnose.File{Path: "/auth", State: diagnose.Read}
	if x, ok := pick(r, 0.5, []diagnose.File{{Path: "/auth", State: diagnose.Read, Newline: true}, missing("/auth")}); ok {
		token = x
	}
	if strings.Contains(strings.Join(env, " "), "TOKEN_FILE=/auth") {
		f.TokenFile = token
	}
	if strings.Contains(strings.Join(env, " "), "IDENTITY_TOKEN_FILE") {
		f.WebIdentity, _ = pick(r, 1, []diagnose.File{{Path: "/t", State: diagnose.Read}, {Path: "/t", State: diagnose.Read, Empty: true}, missing("/t")})
	}
	anyEndpoints(r, f)
	if r.IntN(3) == 0 {
		f.SDKs = []diagnose.SDK{diagnose.SDKs()[r.IntN(len(diagnose.SDKs()))]}
	}
	return f
}

// anyEndpoints are answers as they come together: of the container endpoint, and of IMDS or of the agent in its place.
func anyEndpoints(r *rand.Rand, f *diagnose.Facts) {
	answer := func(o diagnose.Outcome, status int) diagnose.Answer {
		return diagnose.Answer{URL: "http://169.254.169.254/", Outcome: o, Status: status}
	}
	if f.Container.Outcome != diagnose.NotAsked {
		f.Container, _ = pick(r, 1, []diagnose.Answer{
			healthy(), answer(diagnose.Refused, 0), answer(diagnose.Dropped, 0), answer(diagnose.Answered, 500), answer(diagnose.Answered, 200),
			{URL: "http://169.254.170.2/", Outcome: diagnose.Answered, Status: 200, Doc: diagnose.Document{JSON: true, Key: true, Secret: true, Expires: now.Add(time.Hour)}},
		})
	}
	listed := answer(diagnose.Answered, 200)
	i, _ := pick(r, 1, []diagnose.IMDS{
		imds(),
		{Token: answer(diagnose.Silent, 0), V1: listed, Role: "host"},
		{Token: answer(diagnose.Silent, 0), V1: answer(diagnose.Answered, 401)},
		{Token: answer(diagnose.Unreachable, 0), V1: answer(diagnose.Unreachable, 0)},
		{Token: answer(diagnose.Dropped, 0), V1: answer(diagnose.Dropped, 0)},
		{Token: answer(diagnose.Answered, 403), V1: answer(diagnose.Answered, 403)},
		{Token: listed, V1: answer(diagnose.Answered, 404), V2: answer(diagnose.Answered, 404)},
		{Token: answer(diagnose.Answered, 429), V1: answer(diagnose.Answered, 429)},
		{Token: answer(diagnose.Answered, 405), V1: answer(diagnose.Answered, 401)},
		{Token: answer(diagnose.Answered, 400), V1: listed, Role: "host"},
		{Token: answer(diagnose.Answered, 500), V1: answer(diagnose.Answered, 500)},
		{Token: answer(diagnose.Broken, 0), V1: answer(diagnose.Broken, 0)},
	})
	f.IMDS = i
	if f.IMDS.Token.Outcome == diagnose.Dropped && r.IntN(2) == 0 {
		f.Host.Guard = "enforce"
	}
	ours := diagnose.Answer{URL: "http://169.254.170.2/", Outcome: diagnose.Answered, Status: 404, Taskrole: true, Code: "not-this-container"}
	lo := []string{"169.254.170.2", "169.254.169.254"}
	switch r.IntN(6) {
	case 0: // attached
		f.Role, f.Net.OnLo = diagnose.Role{Asked: diagnose.AgentUp, Name: "app", Wanted: "app"}, lo
		f.IMDS = diagnose.IMDS{Token: ours, V1: ours, Local: true}
		if f.Container.Outcome != diagnose.NotAsked {
			f.Container = ours
		}
	case 1: // attached, and the agent is dead
		dead := answer(diagnose.Refused, 0)
		f.Role, f.Net.OnLo = diagnose.Role{Asked: diagnose.AgentDown, Wanted: "app"}, lo
		f.IMDS = diagnose.IMDS{Token: dead, V1: dead, Local: true}
		if f.Container.Outcome != diagnose.NotAsked {
			f.Container = dead
		}
	case 2: // wanted only
		f.Role = diagnose.Role{Asked: diagnose.AgentUp, Wanted: "app"}
	}
}

// atIMDS are errors that say why the instance's metadata gives nothing.
var atIMDS = []diagnose.Code{
	"imds-disabled", "imds-throttled", "imds-hop-limit", "imds-v2-required", "imds-off", "imds-no-role", "imds-guarded", "imds-unreachable",
}

// TestFindingsNeverContradictTheChains over combinations that nobody has thought of.
func TestFindingsNeverContradictTheChains(t *testing.T) {
	const trials = 1_500
	for seed := range uint64(trials) {
		f := anyFacts(rand.New(rand.NewPCG(seed, 6)))
		for _, problem := range contradictions(f) {
			t.Errorf("seed %d: %s\nenvironment %v\nSDKs %v, files %+v %+v, container %+v, IMDS %+v, role %+v\nfindings %v", seed, problem, sorted(f.Env), f.SDKs,
				f.Credentials.Profiles, f.WebIdentity, f.Container, f.IMDS, f.Role, codes(f))
		}
		if t.Failed() {
			return
		}
	}
}

func sorted(env map[string]diagnose.Var) []string {
	var names []string
	for name, v := range env {
		names = append(names, fmt.Sprintf("%s=%s(%d)", name, v.Text, v.Length))
	}
	slices.Sort(names)
	return names
}

// contradictions are what is wrong with the findings, seen from the chains.
func contradictions(f *diagnose.Facts) (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	found, chains := diagnose.Findings(f), diagnose.Chains(f)
	seen := map[diagnose.Code]bool{}
	explained := map[diagnose.SDK]bool{}
	last := 0
	for _, x := range found {
		if seen[x.Code] {
			add("%s twice", x.Code)
		}
		seen[x.Code] = true
		weight := slices.Index([]diagnose.Severity{diagnose.Error, diagnose.Warning, diagnose.Note}, x.Severity)
		if weight < last || weight < 0 {
			add("%s, of severity %q, is not in its place", x.Code, x.Severity)
		}
		last = weight
		if x.What == "" || len(x.Evidence) == 0 || x.Fix == "" || len(x.Commands) == 0 || x.Manual == "" || slices.Contains(x.Evidence, "") {
			add("%s is not complete: %+v", x.Code, x)
		}
		affects := x.Affects
		if affects == nil {
			affects = diagnose.SDKs()
		}
		for _, s := range affects {
			explained[s] = explained[s] || x.Severity == diagnose.Error || x.Severity == diagnose.Note || x.Code == "imds-disabled-ambiguous"
		}
		fails := slices.ContainsFunc(chains, func(c diagnose.Chain) bool {
			return c.Source == diagnose.FromNowhere && slices.Contains(affects, c.SDK)
		})
		if slices.Contains(atIMDS, x.Code) && !fails {
			add("%s, and none of the SDKs it affects is without credentials", x.Code)
		}
		if x.Code == "host-role" && !slices.ContainsFunc(chains, func(c diagnose.Chain) bool { return c.Source == diagnose.FromIMDS }) {
			add("host-role, and nobody has it")
		}
	}
	for _, c := range chains {
		if c.Source == diagnose.FromNowhere && !explained[c.SDK] {
			add("%s has no credentials, and nothing says why: %+v", c.SDK, c.Steps)
		}
	}
	for _, pair := range [][2]diagnose.Code{{"agent-down", "role-not-attached"}, {"imds-guarded", "imds-unreachable"}} {
		if seen[pair[0]] && seen[pair[1]] {
			add("%s and %s", pair[0], pair[1])
		}
	}
	return problems
}
