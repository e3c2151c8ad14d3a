// Package control is the conversation between the agent and the programs of its host: one packet with a request, one
// packet with the answer, over a Unix socket of type SOCK_SEQPACKET.
//
// It is for the hook, which asks for a container's role while the engine waits, and for the command line, which asks
// what is attached, which roles there are, and for a role's credentials. A container is handed over as descriptors (SCM_RIGHTS: a pidfd and its network namespace) and
// not as numbers, so that no process id can be reused on the way. The package refuses callers that are not root,
// packets that are larger than MaxPacket, cut off, of another protocol version or with members it does not know, and
// any other number of descriptors than the request needs; what it refuses it closes. It decides nothing about roles.
//
// It is apart from the agent because taskrole-runtime links the calling half, and must stay small.
package control

import (
	"context"
	"os"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// Version of the protocol. A request with another version is answered with a sentence that names both; a change of
// any message's meaning or members raises it.
const Version = 2

// DefaultSocket is where the agent listens unless its configuration says otherwise.
const DefaultSocket = "/run/taskrole/agent.sock"

// MaxPacket is the largest packet either side sends or accepts, in bytes.
const MaxPacket = 64 << 10

// AttachRequest asks that a container, which is handed over beside it as two descriptors, gets a role.
type AttachRequest struct {
	Role   string        `json:"role"`             // name of the role in the agent's configuration
	ID     container.ID  `json:"id"`               // as the OCI state says; valid
	Bundle string        `json:"bundle,omitempty"` // absolute path of the OCI bundle as the runtime sees it, or empty
	Way    container.Way `json:"way"`              // how the container came to the hook
	// Confined says that by its bundle the container has neither CAP_NET_RAW nor CAP_NET_ADMIN.
	Confined bool `json:"confined,omitempty"`
}

// AttachReply says that the container has its role: its endpoints answer from now on.
type AttachReply struct {
	Container container.ID `json:"container"`
	Role      string       `json:"role"`
	RoleARN   string       `json:"role_arn"`
	Session   string       `json:"session"`             // role session name, as CloudTrail shows it
	Already   bool         `json:"already,omitempty"`   // the container was attached before; nothing was changed
	Endpoints []string     `json:"endpoints,omitempty"` // host:port of each, as seen inside the container
}

// Attached is one container that holds a role now.
type Attached struct {
	ID        container.ID  `json:"id"`
	Name      string        `json:"name,omitempty"` // the engine's, where known
	Image     string        `json:"image,omitempty"`
	Network   string        `json:"network,omitempty"` // the engine's word for it
	Role      string        `json:"role"`
	RoleARN   string        `json:"role_arn"`
	Session   string        `json:"session"`
	Way       container.Way `json:"way"`
	PID       int           `json:"pid"`   // of its first process, in the agent's pid namespace
	Since     time.Time     `json:"since"` // when it was attached
	Endpoints []string      `json:"endpoints,omitempty"`
	Host      bool          `json:"host,omitempty"`    // it is on the host's network
	Shared    bool          `json:"shared,omitempty"`  // other containers with a role are in its network namespace
	Missing   string        `json:"missing,omitempty"` // what somebody took away from its namespace, so that it is refused

	// The credentials it holds now, and who took them last. Client is what the client calls itself.
	Fetched time.Time `json:"fetched,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	Trouble *Trouble  `json:"trouble,omitempty"` // why they are not renewed, or not served
	Taken   time.Time `json:"taken,omitzero"`
	Client  string    `json:"client,omitempty"`
}

// Trouble is a fault, told to people who ask later.
type Trouble struct {
	Code fault.Code `json:"code"`
	What string     `json:"error"`
	Hint string     `json:"hint,omitempty"`
}

// NewTrouble makes one of a fault, of bounded length.
func NewTrouble(f *fault.Error) *Trouble {
	return &Trouble{Code: f.Code, What: cut(f.What, maxTrouble), Hint: cut(f.Hint, maxTrouble)}
}

// Refusal is a container that did not get its role.
type Refusal struct {
	Time  time.Time     `json:"time"` // of the last one
	Count int           `json:"count"`
	ID    container.ID  `json:"id"`
	Name  string        `json:"name,omitempty"` // the engine's, where known
	Role  string        `json:"role"`
	Way   container.Way `json:"way"`
	// Running says that the container runs all the same, without the role.
	Running bool `json:"running,omitempty"`
	Trouble
}

// MaxRefusals is how many refusals a list has at most: the last ones.
const MaxRefusals = 50

// ListReply is every container attached now, ordered by ID, and those refused lately, the last first.
type ListReply struct {
	Containers []Attached `json:"containers"`
	Refusals   []Refusal  `json:"refusals"`
}

// Handler answers requests. Its methods are called from several goroutines; their context ends when the caller goes
// away, when the time for one request is over, or when the server is stopped. Errors reach the caller as faults
// (fault.As): the sentence and the hint, never the cause.
type Handler interface {
	// Attach owns both files from the moment it is called, also when it returns an error. Neither has been looked
	// at: a caller may have sent any two descriptors.
	Attach(ctx context.Context, r AttachRequest, pidfd, netns *os.File) (AttachReply, error)
	List(ctx context.Context) (ListReply, error)
}
