// Package s3 is the laboratory's object store: a gate that authenticates and authorizes as S3 does, in front of an
// in-memory store that does neither.
//
// The gate is ours because no library checks what temporary credentials need: signatures in all three places, the
// session token and its expiry, clock skew, chunk signatures, the body's hash, identity and session policies. The
// store (rclone's gofakes3) sees a request only after all of it held, with a body that was read to its end and
// checked. The gate lets through only operations it has a permission for, so that the store can never read a request
// as another operation than the one that was authorized.
//
// It refuses production use: objects are lost with the process, and whole bodies are held in memory. Buckets are
// addressed by path; bucket policies, ACLs and the like are not there.
package s3

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"

	"taskrole/lab/iam"
)

// Options of a Server.
type Options struct {
	Account *iam.Account
	Region  string // the one region that requests may be signed for
	// Before is asked when the action is known and before anything is verified; what it returns is the answer. It may
	// take its time, until ctx ends, and may panic with http.ErrAbortHandler to cut the connection. nil: none.
	Before func(ctx context.Context, action string) *Error
	// After is told of every call; its Action is the IAM action without "s3:". nil: nobody.
	After  func(iam.Event)
	Logger *slog.Logger
}

// Server is the service's http.Handler.
type Server struct {
	o       Options
	objects *s3mem.Backend
	store   http.Handler
}

// New makes an empty store.
func New(o Options) *Server {
	objects := s3mem.New()
	// The store's own check of the clock is off: it would use the real one.
	return &Server{o: o, objects: objects, store: gofakes3.New(objects, gofakes3.WithTimeSkewLimit(0)).Server()}
}

// Seed puts an object into the store, without asking anyone, and makes its bucket when it is not there.
func (s *Server) Seed(ctx context.Context, bucket, key string, content []byte) error {
	exists, err := s.objects.BucketExists(ctx, bucket)
	if err == nil && !exists {
		err = s.objects.CreateBucket(ctx, bucket)
	}
	if err != nil {
		return err
	}
	meta := map[string]string{"Content-Type": "binary/octet-stream"}
	_, err = s.objects.PutObject(ctx, bucket, key, meta, bytes.NewReader(content), int64(len(content)))
	return err
}

// call is one request on its way.
type call struct {
	*Server

	r     *http.Request
	op    operation
	event iam.Event
	who   *iam.Principal
	now   time.Time
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := s.o.Account.Now()
	c := &call{Server: s, r: r, now: now, event: iam.Event{Time: now, Service: "s3", Remote: r.RemoteAddr}}
	defer c.finish(r.Context())                         // also when the connection is cut, which is a panic
	w.Header().Set("Date", now.Format(http.TimeFormat)) // SDKs set their own clock by it
	w.Header().Set("Server", "AmazonS3")
	err := c.gate(r.Context())
	if err == nil {
		err = c.serve(r.Context(), w)
	}
	if err == nil {
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = Internal()
	}
	c.event.Status, c.event.Code = e.Status, e.Code
	e.write(w, r)
}

// finish tells the audit trail.
func (c *call) finish(ctx context.Context) {
	if c.o.After != nil {
		c.o.After(c.event)
	}
	c.o.Logger.DebugContext(ctx, "s3 call", slog.String("code", c.event.Code))
}

// serve hands the request to the store.
func (c *call) serve(ctx context.Context, w http.ResponseWriter) error {
	rec := &recorder{ResponseWriter: w}
	switch {
	case c.op.sub == "delete":
		return c.deleteObjects(rec)
	case c.hidesMissing(ctx):
		rec.hide = true
	}
	c.store.ServeHTTP(rec, c.r)
	if rec.hidden {
		return c.authorize(permission{"s3:ListBucket", bucketARN(c.op.bucket)}) // the reason why the caller is not told
	}
	c.event.Status = rec.status
	return nil
}

// hidesMissing says whether the answer to a missing key is 403: S3 tells only those who may list the bucket that a
// key is not there.
func (c *call) hidesMissing(ctx context.Context) bool {
	if c.op.key == "" || c.op.sub != "" || c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return false
	}
	exists, err := c.objects.BucketExists(ctx, c.op.bucket)
	return err == nil && exists && c.authorize(permission{"s3:ListBucket", bucketARN(c.op.bucket)}) != nil
}

// recorder notes the status and can swallow a 404.
type recorder struct {
	http.ResponseWriter

	status       int
	hide, hidden bool
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	r.status = status
	if r.hide && status == http.StatusNotFound {
		r.hidden = true
		return
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.hidden {
		return len(b), nil
	}
	return r.ResponseWriter.Write(b)
}
