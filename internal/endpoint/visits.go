package endpoint

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// Visits notes who took credentials last, for people. The zero one is ready; it may be read while it is written.
type Visits struct {
	at     atomic.Int64 // nanoseconds since 1970; 0: nobody yet
	client atomic.Pointer[string]
}

// maxClient bounds what is kept of a client's name for itself: SDKs send some 150 bytes.
const maxClient = 200

// note costs no memory as long as the same client asks again.
func (v *Visits) note(r *http.Request, now time.Time) {
	if v == nil {
		return
	}
	client := ""
	if values := r.Header["User-Agent"]; len(values) > 0 {
		client = values[0][:min(len(values[0]), maxClient)]
	}
	if last := v.client.Load(); last == nil || *last != client {
		kept := strings.Clone(client) // what it was cut from is not kept
		v.client.Store(&kept)
	}
	v.at.Store(now.UnixNano())
}

// Last returns when credentials were taken last and by whom, in printable characters: a client calls itself what it
// likes, or nothing. The zero time means never. Two clients at the same moment may be taken one for the other.
func (v *Visits) Last() (at time.Time, client string) {
	ns := v.at.Load()
	if ns == 0 {
		return time.Time{}, ""
	}
	if p := v.client.Load(); p != nil {
		client = strings.Map(func(r rune) rune {
			if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, *p)
	}
	return time.Unix(0, ns), client
}
