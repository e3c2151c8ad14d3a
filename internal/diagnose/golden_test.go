package diagnose_test

import (
	"strings"
	"testing"
	"time"

	"taskrole/internal/diagnose"
)

// the SDKs of the golden vectors, which were observed by running them.
var observed = []diagnose.SDK{diagnose.Botocore, diagnose.GoV2, diagnose.GoV1, diagnose.JSv3, diagnose.JSv2}

// values makes an environment as package facts does.
func values(pairs ...string) map[string]diagnose.Var {
	env := map[string]diagnose.Var{}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		v := diagnose.Var{Text: value, Length: len(value)}
		switch {
		case strings.HasSuffix(name, "KEY_ID"), name == "AWS_ACCESS_KEY":
			v.Kind, v.Masked = diagnose.Mask(value)
			v.Text = ""
		case strings.Contains(name, "SECRET"), strings.Contains(name, "TOKEN") && !strings.HasSuffix(name, "_FILE"):
			v.Text = ""
		}
		env[name] = v
	}
	return env
}

const (
	asia   = "ASIAEXAMPLE00001234"
	akia   = "AKIAEXAMPLE00001234"
	secret = "not-a-real-secret"
	rel    = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x"
	region = "AWS_REGION=eu-west-1"
	other  = "AWS_DEFAULT_REGION=eu-west-1"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// healthy is a container endpoint that gives credentials.
func healthy() diagnose.Answer {
	return diagnose.Answer{
		URL: "http://169.254.170.2/v2/credentials/x", Outcome: diagnose.Answered, Status: 200,
		Doc: diagnose.Document{
			JSON: true, Key: true, Secret: true, Token: true, Kind: diagnose.Temporary, Masked: "ASIA…1234",
			RoleARN: "arn:aws:iam::123456789012:role/app", Expires: now.Add(time.Hour),
		},
	}
}

// imds is a metadata service of an instance with a role.
func imds() diagnose.IMDS {
	ok := diagnose.Answer{URL: "http://169.254.169.254/", Outcome: diagnose.Answered, Status: 200}
	return diagnose.IMDS{Token: ok, V1: ok, V2: ok, Role: "host"}
}

func file(path string, profiles map[string]diagnose.Profile) diagnose.File {
	return diagnose.File{Path: path, State: diagnose.Read, Profiles: profiles}
}

func missing(path string) diagnose.File { return diagnose.File{Path: path, State: diagnose.Missing} }

// with is a process with these variables, an endpoint, and IMDS.
func with(pairs ...string) *diagnose.Facts {
	f := &diagnose.Facts{
		Subject: diagnose.Subject{PID: 4711, Container: "web"}, Env: values(pairs...), IMDS: imds(),
		Credentials: missing("/root/.aws/credentials"), Config: missing("/root/.aws/config"), HomeFile: missing("/root/.aws/credentials"),
		Host: diagnose.Host{Now: now},
	}
	for name := range f.Env {
		if strings.HasPrefix(name, "AWS_CONTAINER_CREDENTIALS_") {
			f.Container = healthy()
		}
	}
	return f
}

func TestGoldenVectors(t *testing.T) {
	static := diagnose.Profile{Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true}
	keys := []string{"AWS_ACCESS_KEY_ID=" + asia, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=" + secret}
	custom := func(f *diagnose.Facts) {
		f.Credentials = file("/creds", map[string]diagnose.Profile{"default": static, "p": static})
	}
	const (
		env, con, imd, web, stop = "environment", "container endpoint", "instance metadata", "web identity", "nowhere"
		inP, inDefault           = "file p", "file default"
	)
	for _, v := range []struct {
		name string
		env  []string
		edit func(*diagnose.Facts)
		want []string // of the observed SDKs, in their order
	}{
		{"nothing else", []string{rel}, nil, []string{con, con, con, con, con}},
		{"static keys", append(keys, rel), nil, []string{env, env, env, env, env}},
		{"key id only", []string{rel, "AWS_ACCESS_KEY_ID=" + asia}, nil, []string{stop, con, con, con, con}},
		{"empty keys", []string{rel, "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, nil, []string{con, con, con, con, con}},
		{"credentials file", []string{rel, "AWS_SHARED_CREDENTIALS_FILE=/creds"}, custom, []string{inDefault, inDefault, inDefault, inDefault, con}},
		{"profile", []string{rel, "AWS_SHARED_CREDENTIALS_FILE=/creds", "AWS_PROFILE=p"}, custom, []string{inP, inP, inP, inP, con}},
		{"profile and keys", append(keys, rel, "AWS_SHARED_CREDENTIALS_FILE=/creds", "AWS_PROFILE=p"), custom, []string{env, env, env, inP, env}},
		{"profile missing", []string{rel, "AWS_PROFILE=missing"}, nil, []string{stop, stop, con, con, con}},
		{"profile with a region only", []string{rel, "AWS_PROFILE=q"}, func(f *diagnose.Facts) {
			f.Config = file("/root/.aws/config", map[string]diagnose.Profile{"q": {Region: "eu-west-1"}})
		}, []string{con, con, con, con, con}},
		{"AWS_DEFAULT_PROFILE", []string{"AWS_SHARED_CREDENTIALS_FILE=/creds", "AWS_DEFAULT_PROFILE=p"}, custom, []string{inP, inP, inDefault, inDefault, imd}},
		{"web identity", []string{rel, "AWS_WEB_IDENTITY_TOKEN_FILE=/t", "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"}, func(f *diagnose.Facts) {
			f.WebIdentity = file("/t", nil)
		}, []string{web, web, web, web, con}},
		{"web identity without its file", []string{rel, "AWS_WEB_IDENTITY_TOKEN_FILE=/t", "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"}, func(f *diagnose.Facts) {
			f.WebIdentity = missing("/t")
		}, []string{stop, stop, stop, stop, con}},
		{"web identity without a role", []string{rel, "AWS_WEB_IDENTITY_TOKEN_FILE=/t"}, func(f *diagnose.Facts) { f.WebIdentity = file("/t", nil) }, []string{stop, stop, stop, con, con}},
		{"AWS_ROLE_ARN alone", []string{rel, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"}, nil, []string{con, con, con, con, con}},
		{"legacy names", []string{"AWS_ACCESS_KEY=" + akia, "AWS_SECRET_KEY=" + secret}, nil, []string{imd, env, env, imd, imd}},
		{"proxy", []string{rel, "HTTP_PROXY=http://10.0.0.1:3128"}, nil, []string{con, stop, stop, con, con}},
		{"loopback and proxy", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "HTTP_PROXY=http://10.0.0.1:3128"}, nil, []string{con, con, con, con, con}},
		{"container endpoint fails, IMDS is up", []string{rel}, func(f *diagnose.Facts) {
			f.Container = diagnose.Answer{URL: "http://169.254.170.2/x", Outcome: diagnose.Answered, Status: 500}
		}, []string{stop, stop, stop, stop, imd}},
		{"full URI of ECS", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.2/c"}, nil, []string{con, con, con, con, imd}},
		{"AWS_EC2_METADATA_DISABLED=1", []string{"AWS_EC2_METADATA_DISABLED=1"}, nil, []string{imd, imd, imd, stop, stop}},
		{"AWS_EC2_METADATA_DISABLED=false", []string{"AWS_EC2_METADATA_DISABLED=false"}, nil, []string{imd, imd, imd, imd, stop}},
	} {
		f := with(v.env...)
		if v.edit != nil {
			v.edit(f)
		}
		for i, sdk := range observed {
			got := diagnose.ChainOf(f, sdk)
			who := string(got.Source)
			if got.Source == diagnose.FromFile {
				who += " " + got.Detail
			}
			if who != v.want[i] {
				t.Errorf("%s: %s signs with %q, want %q: %+v", v.name, sdk, who, v.want[i], got.Steps)
			}
		}
	}
}

// TestSecurityTokenBeatsTheSessionToken: in Python only.
func TestSecurityTokenBeatsTheSessionToken(t *testing.T) {
	f := with(rel, "AWS_ACCESS_KEY_ID="+asia, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN=a", "AWS_SECURITY_TOKEN=b")
	for _, sdk := range observed {
		want := "its token is in AWS_SESSION_TOKEN"
		if sdk == diagnose.Botocore {
			want = "its token is in AWS_SECURITY_TOKEN"
		}
		if why := diagnose.ChainOf(f, sdk).Steps[0].Why; !strings.HasSuffix(why, want) {
			t.Errorf("%s: %q, want it to end in %q", sdk, why, want)
		}
	}
}

// TestTokenStep is what the answer to the token's request does where version 1 is allowed.
func TestTokenStep(t *testing.T) {
	none := []diagnose.SDK{diagnose.Rust, diagnose.DotNet}
	for _, c := range []struct {
		name  string
		token diagnose.Answer
		all   bool // every SDK gives up
	}{
		{"400", diagnose.Answer{Outcome: diagnose.Answered, Status: 400}, true},
		{"403", diagnose.Answer{Outcome: diagnose.Answered, Status: 403}, false},
		{"hop limit", diagnose.Answer{Outcome: diagnose.Silent}, false},
	} {
		f := with()
		f.IMDS.Token = c.token
		for _, sdk := range diagnose.SDKs() {
			want := diagnose.FromIMDS
			if c.all || sdk == none[0] || sdk == none[1] {
				want = diagnose.FromNowhere
			}
			if got := diagnose.ChainOf(f, sdk).Source; got != want {
				t.Errorf("token %s: %s has credentials from %q, want %q", c.name, sdk, got, want)
			}
		}
		f.Env = values("AWS_EC2_METADATA_V1_DISABLED=true")
		if got := diagnose.ChainOf(f, diagnose.Botocore).Source; got != diagnose.FromNowhere {
			t.Errorf("token %s, version 1 forbidden: botocore has credentials from %q", c.name, got)
		}
	}
}

// TestMask: of a key id only what people recognise it by, and of anything else nothing.
func TestMask(t *testing.T) {
	for in, want := range map[string]string{
		akia: "AKIA…1234", asia: "ASIA…1234", "": "", "AKIA": "…", "wJalrXUtnFEMIK7MDENG": "…", "AKIA1234567": "…",
	} {
		if _, got := diagnose.Mask(in); got != want {
			t.Errorf("Mask(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestEverySDKHasATitleAndAChain(t *testing.T) {
	for _, s := range diagnose.SDKs() {
		if s.Title() == "" || len(diagnose.ChainOf(with(), s).Steps) == 0 {
			t.Errorf("%s has no title or no chain", s)
		}
	}
}
