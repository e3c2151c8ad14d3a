// Package sts is the laboratory's Security Token Service: GetCallerIdentity and AssumeRole over the query protocol,
// for an account of lab/iam.
//
// It is strict where a fake is tempted to be lenient: it verifies the signature over the body it read, the session
// token, the clock, the scope, every parameter's limits, the trust policy and the caller's own policies, and answers
// in the bytes AWS answers in. A parameter it does not know is an error, because a session that silently lacks what
// the caller asked for would make a test pass for the wrong reason. It refuses the other actions of STS.
//
// Not for production: the credentials it gives open nothing but the laboratory.
package sts

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"time"

	"taskrole/lab/iam"
)

const (
	namespace  = "https://sts.amazonaws.com/doc/2011-06-15/"
	apiVersion = "2011-06-15"
	maxBody    = 1 << 20
)

// Options of a Server.
type Options struct {
	Account *iam.Account
	Region  string // the one region that requests may be signed for
	// Disabled are further regions, which the account has not activated STS in.
	Disabled []string
	// Before is asked when the action is known and before anything is verified; what it returns is the answer. It may
	// take its time, until ctx ends, and may panic with http.ErrAbortHandler to cut the connection. nil: none.
	Before func(ctx context.Context, action string) *Error
	// After is told of every call. nil: nobody.
	After  func(iam.Event)
	Logger *slog.Logger
}

// Server is the service's http.Handler.
type Server struct{ o Options }

// New makes the service.
func New(o Options) *Server { return &Server{o: o} }

// Error is an answer that says no, in AWS's codes and words.
type Error struct {
	Status        int
	Code, Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Throttled is the answer to too many calls.
func Throttled() *Error { return sender("Throttling", "Rate exceeded") }

// Internal is the answer of a service that is unwell.
func Internal() *Error {
	return &Error{Status: http.StatusInternalServerError, Code: "InternalFailure", Message: "An internal error has occurred."}
}

func sender(code, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Message: message}
}

func forbidden(code, message string) *Error {
	return &Error{Status: http.StatusForbidden, Code: code, Message: message}
}

// call is one request on its way.
type call struct {
	*Server

	r     *http.Request
	body  []byte
	form  url.Values
	event iam.Event
	who   *iam.Principal
	now   time.Time
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, now := newRequestID(), s.o.Account.Now()
	c := &call{Server: s, r: r, now: now, event: iam.Event{Time: now, Service: "sts", Remote: r.RemoteAddr}}
	defer c.finish(r.Context()) // also when the connection is cut, which is a panic
	h := w.Header()
	h.Set("Date", now.Format(http.TimeFormat)) // SDKs set their own clock by it
	h.Set("Content-Type", "text/xml")
	h.Set("x-amzn-RequestId", id)
	answer, err := c.serve(r.Context())
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = Internal()
		}
		c.event.Status, c.event.Code = e.Status, e.Code
		w.WriteHeader(e.Status)
		_, _ = w.Write(errorDocument(e, id))
		return
	}
	c.event.Status = http.StatusOK
	_, _ = w.Write(answer.document(c.event.Action, id))
}

// finish tells the audit trail.
func (c *call) finish(ctx context.Context) {
	if c.o.After != nil {
		c.o.After(c.event)
	}
	c.o.Logger.DebugContext(ctx, "sts call", slog.String("code", c.event.Code), slog.String("role_arn", cut(c.form.Get("RoleArn"))))
}

func (c *call) serve(ctx context.Context) (*element, error) {
	if err := c.read(); err != nil {
		return nil, err
	}
	if c.o.Before != nil {
		if e := c.o.Before(ctx, c.event.Action); e != nil {
			return nil, e
		}
	}
	if err := c.authenticate(); err != nil {
		return nil, err
	}
	if version := c.form.Get("Version"); c.event.Action != "" && version != apiVersion {
		return nil, sender("InvalidAction", fmt.Sprintf("Could not find operation %s for version %s", cut(c.event.Action), cut(version)))
	}
	switch c.event.Action {
	case "":
		return nil, sender("MissingAction", "Missing Action")
	case "GetCallerIdentity":
		return c.callerIdentity()
	case "AssumeRole":
		return c.assumeRole()
	}
	return nil, sender("InvalidAction", fmt.Sprintf("Could not find operation %s for version %s", cut(c.event.Action), apiVersion))
}

// read takes the parameters from the query and from a form in the body.
func (c *call) read() error {
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("read body: %w", err)
	case len(body) > maxBody:
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "RequestEntityTooLarge", Message: "Request size exceeded 1048576 bytes"}
	case c.r.Method != http.MethodGet && c.r.Method != http.MethodPost:
		return &Error{Status: http.StatusMethodNotAllowed, Code: "UnsupportedOperation", Message: "This operation requires GET or POST"}
	}
	c.body = body
	if c.form, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return sender("MalformedQueryString", "The query string contains a syntax error.")
	}
	kind, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if len(body) > 0 && kind == "application/x-www-form-urlencoded" {
		posted, err := url.ParseQuery(string(body))
		if err != nil {
			return sender("MalformedQueryString", "The query string contains a syntax error.")
		}
		for k, v := range posted {
			c.form[k] = append(c.form[k], v...)
		}
	}
	c.event.Action = cut(c.form.Get("Action"))
	return nil
}

func (c *call) callerIdentity() (*element, error) {
	if _, err := c.parameters(nil); err != nil {
		return nil, err
	}
	return tree(leaf("Arn", c.who.ARN), leaf("UserId", c.who.UserID), leaf("Account", string(c.who.Account))), nil
}

// newRequestID makes a UUID, the form of AWS's request ids.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// cut keeps a client's text from filling an answer or the trail.
func cut(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most]
	}
	return s
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return b.String()
}
