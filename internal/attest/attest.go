// Package attest answers who is at the other end, by asking the kernel: which process a descriptor means, which
// cgroup a process is in, and whose socket a connection comes from.
//
// It believes nothing that a process can say of itself: no number that can be used again, no source address, no
// environment. Descriptors that arrive over a socket are checked for what they are. Where the kernel cannot answer,
// as with cgroups on hosts that have only version 1, it says so instead of guessing. It decides nothing: who may have
// which role is package policy's, and what follows from an answer is the caller's.
package attest

import "errors"

// Errors a caller may match.
var (
	// ErrGone means that a process has ended or that a cgroup has been removed.
	ErrGone = errors.New("gone")
	// ErrNotPidfd means that a descriptor is something else than a pidfd.
	ErrNotPidfd = errors.New("not a pidfd")
	// ErrNoSocket means that a connection has no living client in the namespace.
	ErrNoSocket = errors.New("no such client in this namespace")
)
