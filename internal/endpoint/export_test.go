package endpoint

import (
	"net"
	"net/http"
	"time"

	"taskrole/internal/container"
)

// Mint is mint.
func (k *TokenKey) Mint(id container.ID, until time.Time) string { return k.mint(id, until) }

// Valid is valid.
func (k *TokenKey) Valid(id container.ID, token string, now time.Time) bool {
	return k.valid(id, token, now)
}

// Timed is c as a server has it.
func Timed(c net.Conn) net.Conn { return &timed{Conn: c} }

// StopTimer says whether the timer of c, which Timed made, was running.
func StopTimer(c net.Conn) bool {
	t, ok := c.(*timed)
	return ok && t.timer.Stop()
}

// Note is note.
func (v *Visits) Note(r *http.Request, now time.Time) { v.note(r, now) }
