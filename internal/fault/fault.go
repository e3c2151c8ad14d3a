// Package fault is an error a person can act on: a stable code, one sentence that says what happened, and one that
// says what to do.
//
// The same code appears in the command line's output, in HTTP bodies, in log attributes and as a heading of
// doc/errors.md; a test keeps the list and the manual equal. The package refuses to carry causes to strangers: Error
// prints the sentence and the way out, never what Unwrap returns, so that an AWS or engine error does not become
// our interface nor reach a container by accident.
package fault

import "errors"

// Error is a fault. Code and What are never empty.
type Error struct {
	Code Code
	What string // one sentence without a final stop: what happened, on what
	Hint string // what to do about it, or empty
	Err  error  // the cause for the log; may be nil
}

// New makes a fault without a cause.
func New(code Code, what, hint string) *Error { return &Error{Code: code, What: what, Hint: hint} }

// Wrap makes a fault with a cause that only the log sees.
func Wrap(err error, code Code, what, hint string) *Error {
	return &Error{Code: code, What: what, Hint: hint, Err: err}
}

// Error returns the sentence, the way out and the code: "WHAT: HINT [CODE]".
func (e *Error) Error() string {
	s := e.What
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s + " [" + string(e.Code) + "]"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// As finds the fault in err's chain, or makes one with code Internal of it. It returns nil for nil.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Wrap(err, Internal, err.Error(), "look at the agent's log; if it does not explain this, report it")
}

// CodeOf returns the code of err, Internal for an error that is no fault, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return As(err).Code
}

// Status is the HTTP status a container sees: 503 where asking again can help, else 4xx (rule R13 of the SDK
// contract: SDKs retry 5xx and give up on 4xx).
func (e *Error) Status() int {
	if s, ok := codes[e.Code]; ok {
		return s.status
	}
	return internalError
}

// Exit codes of every program of taskrole.
const (
	ExitOK    = 0
	ExitFault = 1
	ExitUsage = 2 // wrong words on the command line, or a configuration that cannot be used
	// A command that becomes another one leaves the small numbers to that one, as env(1) and docker run do.
	ExitInstead  = 125 // any fault, before the other command began
	ExitUnusable = 126 // the other command cannot be run
	ExitMissing  = 127 // there is no such command
)

// Exit is the exit code for the fault.
func (e *Error) Exit() int {
	if s, ok := codes[e.Code]; ok {
		return s.exit
	}
	return ExitFault
}
