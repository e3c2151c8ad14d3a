// Package container is one container as taskrole knows it: what the engine says of it, and what the kernel says.
//
// It holds words only, no behaviour: the rules decide on a Container, the machinery serves one. Nothing in it comes
// from the container itself.
package container

import "strings"

// ID is the engine's identifier: 64 hexadecimal digits from Docker, Podman and containerd's CRI, other names elsewhere.
type ID string

// shortID is how many characters of an ID people read and type.
const shortID = 12

// maxID bounds what we accept as an id: it becomes part of session names, log lines and messages.
const maxID = 256

// Short returns the first 12 characters, as docker ps prints them.
func (id ID) Short() string { return string(id[:min(len(id), shortID)]) }

// Valid says whether the id is usable: 1 to 256 characters out of A-Z a-z 0-9 _ . -, as the OCI runtimes accept
// (and also + and :), and no path. It is never used to build a path in any case.
func (id ID) Valid() bool {
	if id == "" || len(id) > maxID || id == "." || id == ".." {
		return false
	}
	return strings.IndexFunc(string(id), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-+:", r))
	}) < 0
}

// Container is what policy decides on.
type Container struct {
	ID ID
	// Name, Image and Labels are the engine's own words, from its list call, and empty if Known is false.
	Name   string
	Image  string
	Labels map[string]string
	// Network is the engine's word for the network: bridge, none, host, a network's name; or empty.
	Network string
	// Known says whether an engine vouches for Name, Image, Labels and Network.
	Known bool
	// Engine names who vouched: "docker", or empty.
	Engine string
}

// Title is how messages name the container: its name where known, else its short id.
func (c Container) Title() string {
	if c.Name != "" {
		return c.Name
	}
	return c.ID.Short()
}

// Way is how a container came to us.
type Way string

// The ways in.
const (
	WayCDI  Way = "cdi"  // --device taskrole/role=NAME
	WayShim Way = "shim" // --runtime taskrole -e TASKROLE=NAME
	// WayLogDriver is no container's: the engine's daemon asks for its log driver awslogs.
	WayLogDriver Way = "log-driver"
	WayLabel     Way = "label" // --label taskrole=NAME: after its start
)
