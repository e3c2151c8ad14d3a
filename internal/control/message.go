package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// Limits of what a request may say and of what an answer repeats, in bytes.
const (
	maxRole     = 253  // more than any configuration allows
	maxBundle   = 4096 // PATH_MAX
	maxSentence = 4096 // of each of a fault's sentences
	maxTrouble  = 400  // of those in a list
	quoted      = 64   // of somebody else's text in a sentence
)

// attachFDs is how many descriptors an attach request carries: the pidfd, then the network namespace.
const attachFDs = 2

// request has exactly one of its requests set.
type request struct {
	Version     int                 `json:"version"`
	Attach      *AttachRequest      `json:"attach,omitempty"`
	List        *listRequest        `json:"list,omitempty"`
	Refusals    *refusalsRequest    `json:"refusals,omitempty"`
	Roles       *rolesRequest       `json:"roles,omitempty"`
	Check       *checkRequest       `json:"check,omitempty"`
	Credentials *CredentialsRequest `json:"credentials,omitempty"`
}

// listRequest asks for the containers whose id sorts after After. Thousands of containers do not fit into one packet.
type listRequest struct {
	After container.ID `json:"after,omitempty"`
}

// reply has exactly one of its answers set.
type reply struct {
	Version     int              `json:"version"`
	Attach      *AttachReply     `json:"attach,omitempty"`
	List        *listPage        `json:"list,omitempty"`
	Refusals    *refusalsPage    `json:"refusals,omitempty"`
	Roles       *rolesPage       `json:"roles,omitempty"`
	Check       *CheckReply      `json:"check,omitempty"`
	Credentials *wireCredentials `json:"credentials,omitempty"`
	Fault       *wireFault       `json:"fault,omitempty"`
}

type listPage struct {
	Containers []Attached `json:"containers"`
	More       bool       `json:"more,omitempty"` // ask again, after the last one
}

// refusalsRequest asks for the refusals of a ListReply, and refusalsPage is as many of the last ones as fit into a packet.
type (
	refusalsRequest struct{}
	refusalsPage    struct {
		Refusals []Refusal `json:"refusals"`
	}
)

// wireFault is a fault.Error without its cause.
type wireFault struct {
	Code fault.Code `json:"code"`
	What string     `json:"what"`
	Hint string     `json:"hint,omitempty"`
}

// fds is how many descriptors belong to the request.
func (r request) fds() int {
	if r.Attach != nil {
		return attachFDs
	}
	return 0
}

// decodeRequest understands one packet, or returns a fault that says why not.
func decodeRequest(b []byte) (request, error) {
	var r request
	if err := checkVersion(b); err != nil {
		return r, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // what we do not understand may be a restriction
	if err := d.Decode(&r); err != nil {
		return request{}, invalid(err, "a control request that cannot be understood")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return request{}, invalid(nil, "a control request with text after its end")
	}
	if err := r.check(); err != nil {
		return request{}, err
	}
	return r, nil
}

// check refuses what asks for nothing, for two things, or for something that cannot be.
func (r request) check() error {
	asked := 0
	for _, there := range []bool{r.Attach != nil, r.List != nil, r.Refusals != nil, r.Roles != nil, r.Check != nil, r.Credentials != nil} {
		if there {
			asked++
		}
	}
	switch {
	case asked != 1:
		return invalid(nil, "a control request must ask for exactly one thing")
	case r.Attach != nil:
		return r.Attach.check()
	case r.List != nil && r.List.After != "" && !r.List.After.Valid():
		return invalid(nil, fmt.Sprintf("container id %s is not valid", quote(string(r.List.After))))
	case r.Roles != nil && r.Roles.After != "":
		return checkRole(r.Roles.After)
	case r.Check != nil:
		return checkRole(r.Check.Role)
	case r.Credentials != nil:
		return r.Credentials.check()
	}
	return nil
}

// checkVersion looks at nothing but the version, so that a newer caller's request gets the sentence about versions
// and not one about a member we do not know.
func checkVersion(b []byte) error {
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return invalid(err, "a control request that is not a JSON object with a version")
	}
	if v.Version == nil {
		return invalid(nil, "a control request without a version")
	}
	if *v.Version != Version {
		return fault.New(fault.RequestInvalid,
			fmt.Sprintf("the caller speaks version %d of the control protocol and the agent version %d", *v.Version, Version),
			`install taskrole and taskrole-runtime of the same release and restart the agent ("systemctl restart taskrole")`)
	}
	return nil
}

// check refuses what no honest hook sends.
func (r *AttachRequest) check() error {
	if err := checkRole(r.Role); err != nil {
		return err
	}
	switch {
	case !r.ID.Valid():
		return invalid(nil, fmt.Sprintf("container id %s is not valid", quote(string(r.ID))))
	case r.Way != container.WayCDI && r.Way != container.WayShim:
		return invalid(nil, fmt.Sprintf("unknown way in %s", quote(string(r.Way))))
	case len(r.Bundle) > maxBundle || r.Bundle != "" && !filepath.IsAbs(r.Bundle):
		return invalid(nil, fmt.Sprintf("bundle %s is not an absolute path", quote(r.Bundle)))
	}
	return nil
}

// encode makes the packet of a request or a reply.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode control packet: %w", err)
	}
	if len(b) > MaxPacket {
		return nil, fmt.Errorf("control packet of %d bytes; at most %d fit", len(b), MaxPacket)
	}
	return b, nil
}

// encodeReply makes a packet in any case: what does not fit is replaced by a fault that says so.
func encodeReply(r reply) []byte {
	r.Version = Version
	b, err := encode(r)
	if err == nil {
		return b
	}
	b, err = encode(reply{Version: Version, Fault: toWire(fault.As(err))})
	if err != nil {
		return nil // not reachable: a wireFault is bounded and always encodes
	}
	return b
}

// decodeReply understands an answer. Members we do not know are ignored: they can only be news.
func decodeReply(b []byte) (reply, error) {
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return reply{}, fmt.Errorf("decode control reply: %w", err)
	}
	switch f := r.Fault; {
	case f != nil && f.Code != "" && f.What != "":
		return reply{}, fault.New(f.Code, f.What, f.Hint) // also of another version: it says what is wrong
	case f != nil:
		return reply{}, errors.New("control reply with an empty fault")
	case r.Version != Version:
		return reply{}, fmt.Errorf("control reply of version %d, expected %d", r.Version, Version)
	}
	return r, nil
}

func toWire(f *fault.Error) *wireFault {
	w := &wireFault{Code: f.Code, What: cut(f.What, maxSentence), Hint: cut(f.Hint, maxSentence)}
	if w.What == "" {
		w.What = "the agent gave no reason"
	}
	return w
}

func invalid(cause error, what string) error {
	if cause != nil {
		what += ": " + cut(cause.Error(), 2*quoted)
	}
	return fault.Wrap(cause, fault.RequestInvalid, what,
		"this is not something a user does; check that taskrole and taskrole-runtime are of the same release")
}

// cut shortens s to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return strings.ToValidUTF8(s, "�")
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func quote(s string) string { return fmt.Sprintf("%q", cut(s, quoted)) }
