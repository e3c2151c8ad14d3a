package cloud

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"taskrole/lab/iam"
	"taskrole/lab/imds"
	"taskrole/lab/s3"
	"taskrole/lab/sts"
)

// Kind of a fault.
type Kind string

// What can go wrong on purpose.
const (
	Throttle Kind = "throttle" // the service's own answer to too many calls
	Latency  Kind = "latency"  // Delay, then the real answer
	Outage   Kind = "outage"   // the connection is cut without an answer
	Failure  Kind = "error"    // the service's own internal error (500)
)

// maxDelay bounds Fault.Delay, so that a laboratory that is taken down does not hang long.
const maxDelay = time.Minute

// Fault is something that goes wrong from now on.
type Fault struct {
	Service string   `json:"service"`          // sts, s3 or imds
	Action  string   `json:"action,omitempty"` // only this one, as the audit trail names it; "" for all
	Kind    Kind     `json:"kind"`
	Count   int      `json:"count,omitempty"` // how many calls it hits; 0: until it is cleared
	Delay   Duration `json:"delay,omitempty"` // of Latency; at most a minute
}

// Duration is a time.Duration that JSON writes as 250ms.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

func (f Fault) check() error {
	switch {
	case !slices.Contains([]string{"sts", "s3", "imds"}, f.Service):
		return fmt.Errorf("unknown service %q; allowed: sts, s3, imds", f.Service)
	case !slices.Contains([]Kind{Throttle, Latency, Outage, Failure}, f.Kind):
		return fmt.Errorf("unknown kind of fault %q; allowed: throttle, latency, outage, error", f.Kind)
	case f.Count < 0:
		return fmt.Errorf("count %d; allowed: 0 (until it is cleared) or more", f.Count)
	case (f.Kind == Latency) != (f.Delay != 0) || f.Delay < 0 || time.Duration(f.Delay) > maxDelay:
		return fmt.Errorf("delay %v of a fault of kind %s; allowed: up to %v, for latency only", time.Duration(f.Delay), f.Kind, maxDelay)
	}
	return nil
}

// SetFault makes something go wrong from the next call on. It takes the place of a fault of the same service, action
// and kind; others go on beside it, and delays come first.
func (c *Cloud) SetFault(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	c.faults.set(f)
	return nil
}

// ClearFaults takes the faults of one service away, or all when service is empty.
func (c *Cloud) ClearFaults(service string) { c.faults.clear(service) }

// Faults lists what is going wrong now.
func (c *Cloud) Faults() []Fault { return c.faults.all() }

type faults struct {
	mu     sync.Mutex // guards active
	active []Fault
}

func (fs *faults) set(f Fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.active = slices.DeleteFunc(fs.active, func(o Fault) bool {
		return o.Service == f.Service && o.Action == f.Action && o.Kind == f.Kind
	})
	fs.active = append(fs.active, f)
}

func (fs *faults) clear(service string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.active = slices.DeleteFunc(fs.active, func(f Fault) bool { return service == "" || f.Service == service })
}

func (fs *faults) all() []Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return append([]Fault{}, fs.active...)
}

// take counts a call against the faults that concern it: the delays add up, and the first other fault counts.
func (fs *faults) take(service, action string) (delay time.Duration, kind Kind) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	kept := fs.active[:0]
	for _, f := range fs.active {
		if f.Service == service && (f.Action == "" || f.Action == action) && (f.Kind == Latency || kind == "") {
			if f.Kind == Latency {
				delay += time.Duration(f.Delay)
			} else {
				kind = f.Kind
			}
			if f.Count == 1 {
				continue // that was the last
			}
			f.Count = max(f.Count-1, 0)
		}
		kept = append(kept, f)
	}
	fs.active = kept
	return delay, kind
}

// suffer waits and cuts; what is left is a kind that the service has words for.
func (c *Cloud) suffer(ctx context.Context, service, action string) Kind {
	delay, kind := c.faults.take(service, action)
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			panic(http.ErrAbortHandler) // the client has gone
		}
	}
	if kind == Outage {
		panic(http.ErrAbortHandler)
	}
	return kind
}

func (c *Cloud) beforeSTS(ctx context.Context, action string) *sts.Error {
	switch c.suffer(ctx, "sts", action) {
	case Throttle:
		return sts.Throttled()
	case Failure:
		return sts.Internal()
	}
	return nil
}

func (c *Cloud) beforeS3(ctx context.Context, action string) *s3.Error {
	switch c.suffer(ctx, "s3", action) {
	case Throttle:
		return s3.Throttled()
	case Failure:
		return s3.Internal()
	}
	return nil
}

// metadata is the metadata service with faults and an audit trail, which EC2's has not.
func (c *Cloud) metadata() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := iam.Event{Time: c.account.Now(), Service: "imds", Action: metadataAction(r.URL.Path), Remote: r.RemoteAddr}
		rec := &statusRecorder{ResponseWriter: w}
		defer func() { // also when the connection is cut, which is a panic
			e.Status = rec.status
			c.trail.add(e)
		}()
		switch c.suffer(r.Context(), "imds", e.Action) {
		case Throttle:
			imds.WriteError(rec, http.StatusTooManyRequests)
		case Failure:
			imds.WriteError(rec, http.StatusInternalServerError)
		default:
			c.imds.ServeHTTP(rec, r)
		}
	})
}

// metadataAction names a request in few words, since paths are without number.
func metadataAction(path string) string {
	const credentials = "/meta-data/iam/security-credentials"
	path = "/" + strings.Trim(path, "/")
	switch {
	case path == "/latest/api/token":
		return "PutToken"
	case strings.HasSuffix(path, credentials):
		return "ListRole"
	case strings.Contains(path, credentials+"/"):
		return "GetCredentials"
	}
	return "GetMetadata"
}

// statusRecorder notes the status of an answer.
type statusRecorder struct {
	http.ResponseWriter

	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusRecorder) Write(b []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(b)
}

// decodeStrict reads one JSON document without unknown members.
func decodeStrict(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
