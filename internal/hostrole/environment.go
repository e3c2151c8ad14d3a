package hostrole

import (
	"os"
	"slices"
	"strings"
)

// shadowing are variables that some SDK looks at before the container endpoint, or that would change what it finds
// there. With one of them left, a command would have another identity than its role, and nobody would notice.
var shadowing = []string{
	// Keys, under all their names.
	"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "SECRET_ACCESS_KEY",
	"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_CREDENTIAL_EXPIRATION", "AWS_ACCOUNT_ID",
	"AMAZON_ACCESS_KEY_ID", "AMAZON_SECRET_ACCESS_KEY", "AMAZON_SESSION_TOKEN",
	// Profiles and files.
	"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_FILE",
	// Web identity.
	"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
	// Another container endpoint, or another way to prove oneself there.
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
	"ECS_CONTAINER_METADATA_URI", "ECS_CONTAINER_METADATA_URI_V4",
}

// fixed are variables that keep SDKs from identities outside the environment.
var fixed = []string{
	// A [default] profile is found before the container endpoint by nearly all, without any variable.
	"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	"AWS_CONFIG_FILE=" + os.DevNull,
	"AWS_CREDENTIAL_PROFILES_FILE=" + os.DevNull, // Java's SDK v1
	"BOTO_CONFIG=" + os.DevNull,                  // botocore looks at /etc/boto.cfg and ~/.boto
	"AWS_SDK_LOAD_CONFIG=1",                      // or JavaScript's SDK v2 does not read the name of the first
	// Some chains go on to the instance metadata service when the container endpoint fails: to the host's own role.
	"AWS_EC2_METADATA_DISABLED=true",
}

// environment is that of the command: what the caller has, without what would stand before the role, and with the
// role. removed are the names that were taken out or replaced.
func environment(caller []string, e access) (env, removed []string) {
	own := append([]string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + e.URI,
		"AWS_CONTAINER_AUTHORIZATION_TOKEN=" + e.Token,
	}, fixed...)
	if e.Region != "" && !has(caller, "AWS_REGION") && !has(caller, "AWS_DEFAULT_REGION") {
		own = append(own, "AWS_REGION="+e.Region, "AWS_DEFAULT_REGION="+e.Region)
	}
	for _, kv := range caller {
		if slices.Contains(own, kv) {
			continue
		}
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains(shadowing, name) || has(own, name) {
			removed = append(removed, name)
			continue
		}
		env = append(env, kv)
	}
	return append(env, own...), removed
}

// has says whether a variable is there and not empty: SDKs take an empty one for none.
func has(env []string, name string) bool {
	return slices.ContainsFunc(env, func(kv string) bool {
		value, ok := strings.CutPrefix(kv, name+"=")
		return ok && value != ""
	})
}
