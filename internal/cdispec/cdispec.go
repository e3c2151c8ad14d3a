// Package cdispec builds the CDI document that makes each role a device, taskrole/role=NAME, and reads it back.
//
// Engines read the document to learn what to put into a container; the runtime shim reads the same document, so that
// both ways in give the same environment and the same hook, and the shim needs to know no configuration. The package
// refuses to be general: it reads back only what it writes.
package cdispec

import "taskrole/internal/ociedit"

// What the document says of itself. Version 0.5.0 has all we use and is the newest that Podman 4.3 understands.
const (
	Kind     = "taskrole/role"
	Version  = "0.5.0"
	FileName = "taskrole.json" // in the CDI directory
)

// Role is what a container needs to know of its role.
type Role struct {
	Name           string
	Region         string // for AWS_REGION and AWS_DEFAULT_REGION; "" sets neither
	Proxy          bool   // the role has a way out: name the proxy for https
	ProxyPlainHTTP bool   // and for http too; only with Proxy
}

// HookCommand is the hook that each device brings.
type HookCommand struct {
	Path    string // of taskrole-runtime, absolute
	Socket  string // of the agent, absolute
	Timeout int    // seconds after which the runtime gives up on it; 0 for never
}

// Build writes the document, roles in the order given.
func Build(_ []Role, _ HookCommand) ([]byte, error) { return nil, nil }

// Device returns the edits of one device of a document that Build made. An unknown name is a fault role-unknown.
func Device(_ []byte, _ string) (ociedit.Edits, error) { return ociedit.Edits{}, nil }
