//go:build conformance

package conformance_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"taskrole/lab/cloud"
	"taskrole/lab/iam"
	"taskrole/test/conformance"
)

// vector is one row of the contract's golden vectors: an environment, and whose identity each of five clients takes.
type vector struct {
	name string
	role string // ecs-only where the contract says container, so that what is found can only come from there
	env  []string
	want string // of boto3, go-v2, go-v1, js-v3 and js-v2
}

func vectorClients() []string { return []string{"boto3", "go-v2", "go-v1", "js-v3", "js-v2"} }

// keys are the access key of an identity that is not the container's.
type keys struct{ id, secret, token string }

func (k keys) env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + k.id, "AWS_SECRET_ACCESS_KEY=" + k.secret}
}

func (k keys) profile(name string) string {
	return fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", name, k.id, k.secret)
}

// others are the identities that can win over the container's.
type others struct{ env, file, fallback, session keys }

func newOthers(c *cloud.Cloud) (others, error) {
	reader := c.Account().Role(cloud.RoleARN(cloud.TaskReader))
	var all []keys
	for _, name := range []string{"env", "file", "default"} {
		u, err := c.Account().AddUser(iam.User{Name: "from-" + name, Policies: reader.Policies})
		if err != nil {
			return others{}, err
		}
		all = append(all, keys{id: u.AccessKeyID, secret: u.Secret.Reveal()})
	}
	c.LimitSessions(0)
	s := c.Account().NewSession(reader, iam.SessionOptions{Name: "from-env", Life: time.Hour})
	c.LimitSessions(*life)
	return others{all[0], all[1], all[2], keys{s.AccessKeyID, s.Secret.Reveal(), s.Token.Reveal()}}, nil
}

const (
	relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	fullVar  = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	token    = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	inFile   = "AWS_SHARED_CREDENTIALS_FILE=/tmp/credentials"
	inConfig = "AWS_CONFIG_FILE=/tmp/config"
)

// contract is §4 of the contract, and what its §2 and §3.1 say of tokens, of empty variables and of turning IMDS off. Where
// an SDK has proved it wrong the row says what the SDK does, and notes.md what the contract said.
func contract(o others) []vector {
	const web = "AWS_WEB_IDENTITY_TOKEN_FILE="
	webRole := "AWS_ROLE_ARN=" + cloud.RoleARN(cloud.TaskReader)
	session := append(o.session.env(), "AWS_SESSION_TOKEN="+o.session.token)
	return []vector{
		{"nothing else", "ecs-only", nil, "container container container container container"},
		{"static keys", "ecs-only", o.env.env(), "env env env env env"},
		{"key id only", "ecs-only", o.env.env()[:1], "stop container container container container"},
		{"keys set and empty", "ecs-only", keys{}.env(), "container container container container container"},
		{"credentials file with [default]", "ecs-only", []string{inFile}, "default default default default container"},
		{"AWS_PROFILE=p, in the file", "ecs-only", []string{inFile, "AWS_PROFILE=p"}, "file file file file container"},
		{"AWS_PROFILE=p and static keys", "ecs-only", append(o.env.env(), inFile, "AWS_PROFILE=p"), "env env env file env"},
		{"AWS_PROFILE=missing", "ecs-only", []string{"AWS_PROFILE=missing"}, "stop stop container container container"},
		{"AWS_PROFILE=q, which has only a region", "ecs-only", []string{inConfig, "AWS_PROFILE=q"}, "container container container container container"},
		{"AWS_DEFAULT_PROFILE=p, no relative URI", "reader", []string{"--unset=" + relative, inFile, "AWS_DEFAULT_PROFILE=p"}, "file file default default IMDS"},
		{"web identity that STS refuses", "ecs-only", []string{web + "/tmp/config", webRole}, "stop stop stop stop container"},
		{"web identity, token file missing", "ecs-only", []string{web + "/missing", webRole}, "stop stop stop stop container"},
		{"web identity without AWS_ROLE_ARN", "ecs-only", []string{web + "/tmp/config"}, "stop stop stop container container"},
		{"AWS_ROLE_ARN only", "ecs-only", []string{webRole}, "container container container container container"},
		{"AWS_ACCESS_KEY and AWS_SECRET_KEY, no relative URI", "reader", []string{"--unset=" + relative, "AWS_ACCESS_KEY=" + o.env.id, "AWS_SECRET_KEY=" + o.env.secret}, "IMDS env env IMDS IMDS"},
		{"keys, AWS_SESSION_TOKEN, and another AWS_SECURITY_TOKEN", "ecs-only", append(session, "AWS_SECURITY_TOKEN=other"), "stop env env env env"},
		{"HTTP_PROXY without NO_PROXY", "ecs-only", []string{"--unset=NO_PROXY", "--unset=no_proxy"}, "container stop stop container container"},
		{"a full URI on loopback, HTTP_PROXY without NO_PROXY", "full", []string{"--unset=NO_PROXY", "--unset=no_proxy"}, "container container container container container"},
		{"an error at the container endpoint, IMDS there", "reader", []string{relative + "=/nothing"}, "stop stop stop stop IMDS"},
		{"relative URI set and empty", "reader", []string{relative + "="}, "stop IMDS IMDS IMDS IMDS"},
		{"full URI set and empty, no relative URI", "reader", []string{"--unset=" + relative, fullVar + "="}, "stop IMDS IMDS IMDS IMDS"},
		{"AWS_EC2_METADATA_DISABLED=true, no relative URI", "reader", []string{"--unset=" + relative, "AWS_EC2_METADATA_DISABLED=true"}, "stop stop stop stop stop"},
		{"AWS_EC2_METADATA_DISABLED=1, no relative URI", "reader", []string{"--unset=" + relative, "AWS_EC2_METADATA_DISABLED=1"}, "IMDS IMDS IMDS stop stop"},
		{"AWS_EC2_METADATA_DISABLED=false, no relative URI", "reader", []string{"--unset=" + relative, "AWS_EC2_METADATA_DISABLED=false"}, "IMDS IMDS IMDS IMDS stop"},
		{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=ipv6 in small letters, no relative URI", "reader", []string{"--unset=" + relative, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=ipv6"}, "IMDS IMDS IMDS stop stop"},
		{"IMDS off, no relative URI", "ecs-only", []string{"--unset=" + relative}, "stop stop stop stop stop"},
		{"a relative URI, and a full one that leads nowhere", "ecs-only", []string{fullVar + "=http://127.0.0.1:9/"}, "container container stop container container"},
		{"a full URI, and the token in a file", "full", []string{"--unset=" + token, token + "_FILE=/tmp/token"}, "container container container container container"},
		{"a full URI, and the token in a file, with a newline", "full", []string{"--unset=" + token, token + "_FILE=/tmp/line"}, "stop stop stop stop stop"},
		{"a full URI, the token, and a file with another", "full", []string{token + "_FILE=/tmp/other"}, "stop stop stop container container"},
	}
}

// vectors runs the rows on the newest engine: what an SDK makes of its environment is not the engine's affair.
func vectors(ctx context.Context, t *testing.T, worlds []*world) []conformance.Verdict {
	t.Helper()
	w := worlds[len(worlds)-1]
	run := runnable(vectorClients())
	if len(run) == 0 || !*golden {
		return nil
	}
	o, err := newOthers(w.cloud)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{
		"CONFORMANCE_CREDENTIALS=" + o.fallback.profile("default") + o.file.profile("p"),
		"CONFORMANCE_CONFIG=[profile q]\nregion = us-east-1\n",
	}
	b := newBoard()
	for _, v := range contract(o) {
		b.row(v.name, vectorClients(), v.want)
		for _, c := range run {
			b.judge(c.name, func() verdict { return w.whose(ctx, c, v, files) })
		}
	}
	return b.wait()
}

// whose runs one client once and says whose identity it took, and what it said.
func (w *world) whose(ctx context.Context, c client, v vector, files []string) verdict {
	// The files are made by the container itself; a shell is in every image.
	env := append([]string{"sh", "-c", `printf %s "$CONFORMANCE_CREDENTIALS" >/tmp/credentials; printf %s "$CONFORMANCE_CONFIG" >/tmp/config
		printf %s "$AWS_CONTAINER_AUTHORIZATION_TOKEN" >/tmp/token; printf '%s\n' "$AWS_CONTAINER_AUTHORIZATION_TOKEN" >/tmp/line
		printf other >/tmp/other; unset CONFORMANCE_CREDENTIALS CONFORMANCE_CONFIG; exec env "$@"`, "sh"}, v.env...)
	b, err := w.start(ctx, c, v.role, env, 0, files...)
	if err != nil {
		return verdict{got: "not started", note: err.Error()}
	}
	defer b.remove(ctx)
	l, err := b.line(ctx, 1, 30*time.Second)
	if err != nil {
		return verdict{got: "stop", note: err.Error()}
	}
	if ok, why := l.found(); !ok {
		return verdict{got: "stop", note: why}
	}
	who := l.arn[strings.LastIndex(l.arn, "/")+1:]
	switch {
	case strings.HasPrefix(who, "from-"):
		return verdict{got: strings.TrimPrefix(who, "from-"), note: l.arn}
	case v.role == "reader":
		return verdict{got: "IMDS", note: l.arn} // the container endpoint is not asked in these rows, or answers an error
	}
	return verdict{got: "container", note: l.arn}
}
