package diagnose_test

import (
	"regexp"
	"strings"
	"testing"

	"taskrole/internal/diagnose"
)

var quotedRE = regexp.MustCompile(`\\'|'[^']*'`)

// TestCommandsHoldNothingOfTheContainersToRun: what a container calls itself, its files and its role is one word of a
// command, whatever it is.
func TestCommandsHoldNothingOfTheContainersToRun(t *testing.T) {
	const evil = `x'; touch /pwned #`
	seen := 0
	for _, env := range [][]string{
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + evil},
		{"TASKROLE=" + evil},
		{"AWS_PROFILE=" + evil},
		{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/c", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/t"},
		{"AWS_ACCESS_KEY_ID=" + akia, "AWS_SECRET_ACCESS_KEY=" + secret},
		{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/x"},
		{"AWS_EC2_METADATA_DISABLED=" + evil},
	} {
		f := with(append(env, "TASKROLE="+evil)...)
		f.Subject.Container, f.Subject.Image, f.Role.Wanted, f.Role.Asked = evil, "-"+evil, evil, diagnose.AgentUp
		f.TokenFile = diagnose.File{Path: "/" + evil, State: diagnose.Missing}
		f.Credentials = file("/"+evil, map[string]diagnose.Profile{"default": {Kind: diagnose.LongLived, Masked: "AKIA…1234", Secret: true}})
		f.ImageKeys = []diagnose.ImageKey{{Layer: 1, Kind: diagnose.LongLived, Masked: "AKIA…1234"}}
		f.Container = diagnose.Answer{URL: "http://127.0.0.1/" + evil, Outcome: diagnose.Answered, Status: 500}
		for _, x := range diagnose.Findings(f) {
			for _, c := range x.Commands {
				seen++
				if bare := quotedRE.ReplaceAllString(c, ""); strings.Contains(bare, "touch") || strings.Contains(bare, ";") {
					t.Errorf("%s: %s", x.Code, c)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
}
