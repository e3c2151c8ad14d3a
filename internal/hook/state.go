package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// maxState bounds the state on stdin. Runtimes write less than a kilobyte, and all annotations.
const maxState = 1 << 20

// maxBundle is PATH_MAX.
const maxBundle = 4096

// state is what we need of the state of the OCI runtime specification (runtime.md, "State"). Members we do not know
// are none of our business.
type state struct {
	ID     container.ID `json:"id"`
	Status string       `json:"status"`
	PID    int64        `json:"pid"`
	Bundle string       `json:"bundle"`
}

// parseState understands the state of a container that is being created.
func parseState(data []byte) (state, error) {
	if len(data) > maxState {
		return state{}, invalid(nil, fmt.Sprintf("the container's state on stdin is longer than %d bytes", maxState))
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return state{}, invalid(nil, "there is no container's state on stdin")
	}
	var s state
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&s); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return state{}, invalid(err, "the container's state on stdin ends in the middle")
		}
		return state{}, invalid(err, "the container's state on stdin cannot be understood: "+clip(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return state{}, invalid(err, "the container's state on stdin goes on after its end")
	}
	return s, s.check()
}

func (s state) check() error {
	switch {
	case !s.ID.Valid():
		return invalid(nil, fmt.Sprintf("the container's state has the id %q, which is none", clip(string(s.ID))))
	case s.Status == "stopped":
		return gone(nil, s)
	case s.PID <= 0 || s.PID > math.MaxInt32:
		return invalid(nil, fmt.Sprintf("the state of container %s has the process id %d, which is none", s.ID.Short(), s.PID))
	case len(s.Bundle) > maxBundle || s.Bundle != "" && !filepath.IsAbs(s.Bundle):
		return invalid(nil, fmt.Sprintf("the state of container %s has the bundle %q, which is no absolute path",
			s.ID.Short(), clip(s.Bundle)))
	}
	return nil
}

func gone(cause error, s state) error {
	return fault.Wrap(cause, fault.ContainerGone,
		fmt.Sprintf("container %s ended before it could get its role", s.ID.Short()), "start it again")
}
