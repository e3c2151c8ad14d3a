//go:build conformance

package conformance_test

import (
	"os"
	"slices"
	"strings"
	"time"

	"taskrole/test/conformance"
)

// client is one row of the suite.
type client struct {
	name string
	root string // its image: one of build/clients/roots
	// never are paths on which it cannot work by itself, with the reason.
	never map[conformance.Path]string
	// known are paths on which it fails by its own fault, with the reason. When it does not, that is to be told too.
	known map[conformance.Path]string
	// keeps says how long it keeps credentials of IMDS, however short they live; 0: it asks again in time.
	keeps time.Duration
	// notRun is why there is no such client at all.
	notRun string
}

// patience is how long clients that ask again in time are watched: a little longer than sessions live meanwhile, so that
// the first credentials are dead then, and a second listing proves that there are new ones.
func patience() time.Duration { return *life + 5*time.Second }

// Some clients hold what IMDS gave them for longer than it lives, in the belief that IMDS is ill. They are watched with
// sessions of patientLife instead, so that what they hold is alive for as long as they hold it.
//
//   - botocore stretches what has less than 17 to 25 minutes left to that, and asks again 15 minutes before its end: 2
//     to 10 minutes after the first time.
//   - the SDK for Java 1 keeps what has less than 15 minutes left for another 65 to 85 seconds, whenever it ends. The
//     broker's first renewal takes 5 to 8 minutes of such a session.
//   - aws-config for Rust stretches what has less than 12 to 15 minutes left to that, so that with a life above 15 minutes
//     it asks again when that life ends.
const (
	patientLife = 16 * time.Minute
	botocore    = 10*time.Minute + 30*time.Second
	rustCore    = patientLife
)

// clients are all of them, in the order of the report.
func clients() []client {
	const noIPv6 = "the SDK has no such setting"
	return []client{
		{name: "boto3", root: "python", keeps: botocore},
		{name: "boto3-debian", root: "boto3", keeps: botocore, known: map[conformance.Path]string{
			conformance.Pod: "this old one, 1.26, takes a full URI on loopback and at 169.254.170.2 only",
		}},
		{name: "awscli1", root: "python"},
		{name: "awscli2", root: "awscli2"},
		{name: "go-v2", root: "shell"},
		{name: "go-v1", root: "shell"},
		{name: "js-v3", root: "node"},
		{name: "js-v2", root: "node"},
		{name: "java-v2", root: "java"},
		{name: "java-v1", root: "java", keeps: botocore, never: map[conformance.Path]string{conformance.IMDS6: noIPv6}},
		{name: "rust", root: "shell", keeps: rustCore},
		{name: "ruby", root: "ruby", known: map[conformance.Path]string{
			conformance.IMDS6: "it sends what is for IMDS to HTTP_PROXY, and Ruby's NO_PROXY is split at colons, so that no IPv6 address can be in it",
		}},
		{name: "php", notRun: "Debian does not package the SDK, and its own registry cannot be reached from here"},
		{
			name: "minio-go", root: "shell", never: map[conformance.Path]string{conformance.IMDS6: noIPv6},
			known: map[conformance.Path]string{conformance.Pod: "it takes a full URI on loopback only"},
		},
		{name: "curl", root: "shell"},
	}
}

// cannot says why the client is not run on the path; "" when it is.
func (c client) cannot(path conformance.Path) string {
	if c.notRun != "" {
		return c.notRun
	}
	if why := c.never[path]; why != "" {
		return why
	}
	if why := c.notBuilt(); why != "" {
		return why
	}
	if !*slow && c.waits(path) != patience() {
		return "needs to wait too long for a quick run"
	}
	return ""
}

// notBuilt says why there is nothing to run; "" when there is.
func (c client) notBuilt() string {
	for _, dir := range []string{c.name, "roots/" + c.root} {
		if _, err := os.Stat(built(dir)); err == nil {
			continue
		}
		if why, err := os.ReadFile(built(dir + ".why")); err == nil {
			return strings.TrimSpace(string(why))
		}
		return "it was not built: run scripts/clients"
	}
	return ""
}

// waits is how long the client waits between its two listings.
func (c client) waits(path conformance.Path) time.Duration {
	if c.keeps > 0 && slices.Contains([]conformance.Path{conformance.IMDS, conformance.IMDS6}, path) {
		return c.keeps
	}
	return patience()
}

// role is the role of the agent's configuration with which the path is tried.
func role(path conformance.Path) string {
	switch path {
	case conformance.FullURI:
		return "full"
	case conformance.Pod:
		return "pod"
	}
	return "reader"
}

// environment is what the path needs, as arguments of env(1). The way in sets the variables of the other paths; whoever
// is to find IMDS must not find them.
func environment(path conformance.Path) []string {
	switch path {
	case conformance.IMDS:
		return []string{"--unset=AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"}
	case conformance.IMDS6:
		return []string{"--unset=AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}
	}
	return nil
}
