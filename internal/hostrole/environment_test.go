package hostrole

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironmentHasTheRoleAndNothingBeforeIt(t *testing.T) {
	env, removed := environment([]string{
		"PATH=/bin", "AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=s", "AWS_SESSION_TOKEN=t", "AWS_PROFILE=prod",
		"AWS_ENDPOINT_URL=http://lab", "AWS_CONFIG_FILE=/home/x/.aws/config", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/token", "AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=",
	}, access{URI: "http://127.0.0.1:1/v1/credentials", Token: "secret", Region: "eu-central-1"})
	slices.Sort(env)
	want := []string{
		"AWS_CONFIG_FILE=/dev/null",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN=secret",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/v1/credentials",
		"AWS_CREDENTIAL_PROFILES_FILE=/dev/null",
		"AWS_DEFAULT_REGION=eu-central-1",
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL=http://lab",
		"AWS_REGION=eu-central-1",
		"AWS_SDK_LOAD_CONFIG=1",
		"AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"BOTO_CONFIG=/dev/null",
		"PATH=/bin",
	}
	if d := cmp.Diff(want, env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	wantRemoved := []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_REGION",
	}
	if d := cmp.Diff(wantRemoved, removed); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
}

func TestRegionThatTheCallerChoseStays(t *testing.T) {
	for _, own := range []string{"AWS_REGION=ap-south-1", "AWS_DEFAULT_REGION=ap-south-1"} {
		env, removed := environment([]string{own}, access{Region: "eu-central-1"})
		if !slices.Contains(env, own) || slices.Contains(env, "AWS_REGION=eu-central-1") || slices.Contains(env, "AWS_DEFAULT_REGION=eu-central-1") || removed != nil {
			t.Errorf("with %s: %v, removed %v", own, env, removed)
		}
	}
}

func TestUnknownRegionIsNotSet(t *testing.T) {
	env, _ := environment(nil, access{})
	if has(env, "AWS_REGION") || has(env, "AWS_DEFAULT_REGION") {
		t.Errorf("environment = %v", env)
	}
}
