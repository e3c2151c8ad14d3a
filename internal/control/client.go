package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// Attach asks the agent at socket to attach the container: pidfd is its first process, netns its network namespace.
// Both stay the caller's. It waits until the agent has answered or ctx ends; ctx should have a deadline. Every error
// is a *fault.Error: the agent's own, or agent-unreachable.
func Attach(ctx context.Context, socket string, r AttachRequest, pidfd, netns *os.File) (AttachReply, error) {
	answer, err := call(ctx, socket, request{Attach: &r}, pidfd, netns)
	if err != nil {
		return AttachReply{}, err
	}
	if answer.Attach == nil || answer.Attach.Container != r.ID || answer.Attach.Role != r.Role {
		return AttachReply{}, notTheAgent(socket)
	}
	return *answer.Attach, nil
}

// List asks the agent at socket for the containers attached now, and those refused lately. Errors are as those of Attach.
func List(ctx context.Context, socket string) (ListReply, error) {
	all, err := pages(func(after string) ([]Attached, bool, error) {
		answer, err := call(ctx, socket, request{List: &listRequest{After: container.ID(after)}})
		if err != nil {
			return nil, false, err
		}
		if answer.List == nil {
			return nil, false, notTheAgent(socket)
		}
		return answer.List.Containers, answer.List.More, nil
	}, func(a Attached) string { return string(a.ID) }, socket)
	if err != nil {
		return ListReply{}, err
	}
	answer, err := call(ctx, socket, request{Refusals: &refusalsRequest{}})
	if err != nil {
		return ListReply{}, err
	}
	if answer.Refusals == nil {
		return ListReply{}, notTheAgent(socket)
	}
	return ListReply{Containers: all, Refusals: answer.Refusals.Refusals}, nil
}

// pages asks for one page after the other, each for what follows the last key of the one before.
func pages[T any](ask func(after string) ([]T, bool, error), key func(T) string, socket string) ([]T, error) {
	var all []T
	after := ""
	for {
		part, more, err := ask(after)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
		if !more {
			return all, nil
		}
		if len(part) == 0 {
			return nil, notTheAgent(socket)
		}
		last := key(part[len(part)-1])
		if last <= after { // an agent that goes in circles must not keep us
			return nil, fault.New(fault.Internal, "the agent's list does not end", "restart the agent")
		}
		after = last
	}
}

// call is one connection: one packet there, one back.
func call(ctx context.Context, socket string, r request, files ...*os.File) (reply, error) {
	r.Version = Version
	packet, err := encode(r)
	if err != nil {
		return reply{}, invalid(err, "the request does not fit")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, socket)
	if err != nil {
		return reply{}, dialFault(err, socket)
	}
	defer conn.Close() //nolint:errcheck // everything that was to be said has been said, or has failed
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return reply{}, fault.New(fault.Internal, fmt.Sprintf("dialling %s gave a %T", socket, conn), "report this")
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // wakes read and write
	defer stop()
	// A write error is not the end: an agent that refuses us may have answered and gone before it read anything.
	writeErr := write(c, packet, files...)
	answer, received, err := read(c)
	closeAll(received) // an agent sends none
	if err != nil {
		return reply{}, silenceFault(ctx, errors.Join(writeErr, err), socket)
	}
	decoded, err := decodeReply(answer)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return reply{}, f
	}
	if err != nil {
		return reply{}, unreachable(err, fmt.Sprintf("what answers at %s is not this release's taskrole agent", socket))
	}
	return decoded, nil
}

// dialFault says why there is no connection.
func dialFault(err error, socket string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.Wrap(err, fault.PermissionDenied, fmt.Sprintf("the control socket %s may not be opened", socket),
			"only root may; run the command as root")
	}
	return unreachable(err, fmt.Sprintf("the taskrole agent does not answer at %s", socket))
}

// silenceFault says why a connection brought no answer.
func silenceFault(ctx context.Context, err error, socket string) error {
	if ctx.Err() != nil {
		return unreachable(errors.Join(ctx.Err(), err), fmt.Sprintf("the taskrole agent did not answer at %s in time", socket))
	}
	return unreachable(err, fmt.Sprintf("the taskrole agent at %s went away without an answer", socket))
}

func unreachable(cause error, what string) error {
	return fault.Wrap(cause, fault.AgentUnreachable, what,
		`start it with "taskrole agent" (or systemctl start taskrole), or start the container without a role`)
}
