package launch

import (
	"fmt"
	"slices"
	"strings"

	"taskrole/internal/cdispec"
	"taskrole/internal/fault"
)

// What a container asks with.
const (
	variable = "TASKROLE"
	label    = "taskrole"
)

func device(role string) string { return cdispec.Kind + "=" + role }

// identities are variables that SDKs look at before the endpoint of the role, or in its place: with one of them the
// container would have another identity, or none.
var identities = []string{
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE",
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}

// contradiction finds what a person's own arguments say against the role. w may be the zero way, when none was chosen yet.
func contradiction(flags []flag, role string, w way) error {
	for _, f := range flags {
		if what, hint := against(f, role, w); what != "" {
			return fault.New(fault.ArgumentsContradict, what, hint)
		}
	}
	return nil
}

func against(f flag, role string, w way) (what, hint string) {
	const once = "leave it out: the role before the arguments is enough"
	name, _, _ := strings.Cut(f.value, "=")
	switch {
	case f.name == "device" && name == cdispec.Kind:
		return fmt.Sprintf("--device %s names a role, and so does taskrole run %s", f.value, role), once
	case f.name == "env" && name == variable:
		return fmt.Sprintf("--env %s names a role, and so does taskrole run %s", f.value, role), once
	case f.name == "label" && name == label:
		return fmt.Sprintf("--label %s names a role, and so does taskrole run %s", f.value, role), once
	case f.name == "env" && slices.Contains(identities, name): // never the value: it may be a secret
		return fmt.Sprintf("--env %s would give the container another identity than the role %s", name, role),
			"leave it out, or run the container without taskrole"
	case f.name == "runtime" && w.name == wayRuntime:
		return fmt.Sprintf("--runtime %s is given, and on this engine the role comes by --runtime %s: a container has one", f.value, runtimeName),
			"leave it out, or use an engine that reads CDI documents; what taskrole's runtime itself calls is set in its configuration"
	}
	return "", ""
}

// comesBack says whether the engine may start the container again after it ended.
func comesBack(flags []flag) bool {
	restarts := false
	for _, f := range flags { // the last one counts
		if f.name == "restart" {
			restarts = f.value != "" && f.value != "no"
		}
	}
	return restarts
}
