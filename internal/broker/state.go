package broker

import (
	"time"

	"taskrole/internal/fault"
)

// State is how a lease's credentials are, for people.
type State struct {
	Since, Expires time.Time    // of what is held now; zero if there never was anything
	Trouble        *fault.Error // why the last renewal failed, or why nothing is served; nil if all is well
}

// State says how the lease's credentials are, from memory and at once.
func (l *Lease) State() State {
	var s State
	if c := l.entry.held.Load(); c != nil {
		s.Since, s.Expires = time.Unix(0, c.from), c.Expires
	}
	if _, err := l.Credentials(); err != nil {
		s.Trouble = fault.As(err)
		return s
	}
	s.Trouble = l.entry.trouble.Load()
	return s
}
