package diagnose_test

import (
	"testing"

	"taskrole/internal/diagnose"
)

// TestWhatTheSDKsWereSeenToDo is what test/conformance saw of SDKs that do not do as the others do.
func TestWhatTheSDKsWereSeenToDo(t *testing.T) {
	const (
		env, file, con, imd, none = diagnose.FromEnv, diagnose.FromFile, diagnose.FromContainer, diagnose.FromIMDS, diagnose.FromNowhere
	)
	static := []string{rel, "AWS_ACCESS_KEY_ID=" + akia, "AWS_SECRET_ACCESS_KEY=" + secret}
	tokenFile := func(state diagnose.File) func(*diagnose.Facts) {
		return func(f *diagnose.Facts) { f.TokenFile = state }
	}
	document := func(edit func(*diagnose.Document)) func(*diagnose.Facts) {
		return func(f *diagnose.Facts) { edit(&f.Container.Doc) }
	}
	type want struct {
		source diagnose.Source
		sees   string
	}
	for _, v := range []struct {
		name string
		env  []string
		edit func(*diagnose.Facts)
		want map[diagnose.SDK]want
	}{
		{"a missing profile, and keys", append(static, "AWS_PROFILE=missing"), nil, map[diagnose.SDK]want{
			diagnose.Botocore: {none, "The config profile (missing) could not be found"}, diagnose.GoV2: {none, "failed to get shared config profile, missing"},
			diagnose.GoV1: {env, ""}, diagnose.Ruby: {env, ""}, diagnose.Rust: {env, ""},
		}},
		{"keys that have ended", append(static, "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z"), nil, map[diagnose.SDK]want{
			diagnose.Botocore: {none, "Credentials were refreshed, but the refreshed credentials are still expired."}, diagnose.GoV2: {env, ""}, diagnose.JSv3: {env, ""},
		}},
		{"a document that has ended", []string{rel}, document(func(d *diagnose.Document) { d.Expires = now.AddDate(-1, 0, 0) }), map[diagnose.SDK]want{
			diagnose.CLIv2: {none, "Credentials were refreshed, but the refreshed credentials are still expired."}, diagnose.GoV1: {con, ""},
			diagnose.JavaV1: {none, "Unable to load AWS credentials from any provider in the chain…The credentials received have been expired"}, diagnose.JavaV2: {con, ""},
		}},
		{"a document without a token", []string{rel}, document(func(d *diagnose.Document) { d.Token = false }), map[diagnose.SDK]want{
			diagnose.Botocore: {none, "'Token'"}, diagnose.GoV2: {con, ""}, diagnose.JSv2: {imd, ""}, diagnose.JavaV1: {con, ""}, diagnose.Ruby: {con, ""},
			diagnose.Rust: {none, "unexpected credentials error: Expected field `Token` in response but it was missing"},
		}},
		{"a profile without its secret", []string{rel}, func(f *diagnose.Facts) {
			f.Credentials = file2(map[string]diagnose.Profile{"default": {Kind: diagnose.LongLived, Masked: "AKIA…1234"}})
		}, map[diagnose.SDK]want{
			diagnose.GoV2: {none, "partial credentials found for profile default"}, diagnose.GoV1: {con, ""},
			diagnose.Rust: {none, "invalid credential source in `default`: profile missing aws_secret_access_key"}, diagnose.JSv3: {con, ""},
		}},
		{"an empty relative URI", []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="}, nil, map[diagnose.SDK]want{
			diagnose.GoV2: {imd, ""}, diagnose.JavaV2: {imd, ""}, diagnose.Ruby: {none, "unable to sign request without credentials set"},
			diagnose.Rust: {none, "invalid relative URI for ECS provider (empty string)"},
		}},
		{"a relative URI without a slash", []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=creds"}, nil, map[diagnose.SDK]want{
			diagnose.Rust:     {none, "an error occurred while loading credentials: Non-success status from HTTP credential provider"},
			diagnose.Botocore: {none, "Unsupported host '169.254.170.2creds'.  Can only retrieve metadata from …these hosts: 169.254.170.2, …localhost"},
		}},
		{"a profile in the configuration, and credentials with another", []string{rel, "AWS_PROFILE=p"}, func(f *diagnose.Facts) {
			f.Credentials = file2(map[string]diagnose.Profile{"q": {}})
			f.Config = file2(map[string]diagnose.Profile{"p": {Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true}})
			f.Config.Path = "/root/.aws/config"
		}, map[diagnose.SDK]want{diagnose.JavaV1: {con, ""}, diagnose.JavaV2: {file, ""}, diagnose.Rust: {file, ""}}},
		{"an empty full URI", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI="}, nil, map[diagnose.SDK]want{
			diagnose.JavaV1:   {none, "Unable to load AWS credentials from any provider in the chain…The environment variable AWS_CONTAINER_CREDENTIALS_FULL_URI is empty"},
			diagnose.Botocore: {none, "Unsupported host 'None'.  Can only retrieve metadata from …these hosts: 169.254.170.2, …localhost"}, diagnose.JSv3: {imd, ""},
		}},
		{"a line break in the token's file", []string{rel, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/t"}, tokenFile(diagnose.File{Path: "/t", State: diagnose.Read, Newline: true}), map[diagnose.SDK]want{
			diagnose.JSv3: {con, ""}, diagnose.Ruby: {con, ""}, diagnose.JavaV2: {imd, ""}, diagnose.JavaV1: {none, "Unable to load AWS credentials from any provider in the chain"},
			diagnose.JSv2: {none, "TypeError [ERR_INVALID_CHAR]: Invalid character in header content [\"Authorization\"]"},
		}},
		{"no token's file", []string{rel, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/t"}, tokenFile(missing("/t")), map[diagnose.SDK]want{
			diagnose.JSv3: {none, "ENOENT: no such file or directory, open '/t'"}, diagnose.JSv2: {none, "ENOENT: no such file or directory, open '/t'"},
		}},
		{"a proxy, and a full URI on loopback", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "HTTP_PROXY=http://10.0.0.1:3128"}, nil, map[diagnose.SDK]want{
			diagnose.Rust: {none, "an error occurred while loading credentials: Non-success status from HTTP credential provider"}, diagnose.GoV2: {con, ""},
		}},
		{"AWS_DEFAULT_PROFILE", []string{"AWS_DEFAULT_PROFILE=p"}, func(f *diagnose.Facts) {
			f.Credentials = file2(map[string]diagnose.Profile{"p": {Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true}})
		}, map[diagnose.SDK]want{diagnose.Ruby: {file, ""}, diagnose.Rust: {imd, ""}, diagnose.JavaV2: {imd, ""}}},
		{"AWS_ROLE_ARN alone", []string{rel, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"}, nil, map[diagnose.SDK]want{
			diagnose.JavaV1: {none, "java.lang.StackOverflowError"}, diagnose.JavaV2: {con, ""},
		}},
		{"an error at the token's request", nil, func(f *diagnose.Facts) { f.IMDS.Token = diagnose.Answer{Outcome: diagnose.Answered, Status: 500} }, map[diagnose.SDK]want{
			diagnose.JSv2: {none, "Could not load credentials from any providers"}, diagnose.JavaV1: {none, "Unable to load AWS credentials from any provider in the chain"},
			diagnose.JSv3: {imd, ""}, diagnose.JavaV2: {imd, ""},
		}},
		{"a role whose imds is off", nil, func(f *diagnose.Facts) {
			f.IMDS.Token.Code, f.Role = "not-this-container", diagnose.Role{Name: "app", IMDS: "off"}
		}, map[diagnose.SDK]want{diagnose.GoV2: {none, "failed to refresh cached credentials, no EC2 IMDS role found"}}},
		{"both URIs, the full one leads nowhere", []string{rel, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:9/c"}, func(f *diagnose.Facts) {
			f.Full = diagnose.Answer{URL: "http://127.0.0.1:9/c", Outcome: diagnose.Refused}
		}, map[diagnose.SDK]want{diagnose.GoV1: {none, "NoCredentialProviders: no valid providers in chain"}, diagnose.GoV2: {con, ""}}},
	} {
		f := with(v.env...)
		if v.edit != nil {
			v.edit(f)
		}
		for sdk, want := range v.want {
			if got := diagnose.ChainOf(f, sdk); got.Source != want.source || got.Sees != want.sees {
				t.Errorf("%s: %s has credentials from %q and its user reads %q; want %q and %q", v.name, sdk, got.Source, got.Sees, want.source, want.sees)
			}
		}
	}
}

// file2 is a credentials file.
func file2(profiles map[string]diagnose.Profile) diagnose.File {
	return file("/root/.aws/credentials", profiles)
}

// TestOlderVersionsAllowFewerHosts: what was found decides, and what was not found is taken for new.
func TestOlderVersionsAllowFewerHosts(t *testing.T) {
	for _, c := range []struct {
		sdk     diagnose.SDK
		version string
		want    diagnose.Source
	}{
		{diagnose.Botocore, "1.29.27", diagnose.FromNowhere},
		{diagnose.Botocore, "1.34.41", diagnose.FromContainer},
		{diagnose.JavaV1, "1.12.700", diagnose.FromNowhere},
		{diagnose.JavaV1, "1.12.788", diagnose.FromContainer},
		{diagnose.JavaV1, "", diagnose.FromContainer},
	} {
		f := with("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials")
		if c.version != "" {
			f.Libraries = []diagnose.Library{{SDK: c.sdk, Version: c.version, Path: "/the/sdk"}}
		}
		if got := diagnose.ChainOf(f, c.sdk).Source; got != c.want {
			t.Errorf("%s %s: credentials from %q, want %q", c.sdk, c.version, got, c.want)
		}
	}
}
