package broker

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

const (
	// Renewal is spread over this part of the life, not done at exactly half of it: containers that started together
	// would ask together for ever. At most half, so that 30 minutes are left of an hour (rule R8).
	renewFrom, renewTo = 0.30, 0.50
	// enough is what should be left of the credentials whoever reads them (rule R8): botocore takes what it gets from
	// IMDS for longer lived than it is, by up to 25 minutes. For it, the latest moment to renew moves forward, to a fifth
	// of the life at most.
	enough, earliest = 30 * time.Minute, 5
	// After a failed renewal: 2 s, 4 s, … up to 30 s, each cut by up to a half.
	backoffFirst, backoffMost = 2 * time.Second, 30 * time.Second
	// soonest keeps a source with absurdly short lives from being called in a loop.
	soonest = time.Second
	// tick is how late a jump of the wall clock is noticed at worst: timers run on the monotonic clock, and that one
	// stands still while the host is suspended.
	tick = 30 * time.Second
)

// entry is one grant: what is held for it, and when to call for it again.
type entry struct {
	b     *Broker
	grant grant.Grant
	key   key

	// Guarded by b.mu.
	holders   int           // leases and waiting callers
	idleSince time.Duration // when holders became 0, on the monotonic clock
	calling   bool          // a call is under way; whoever makes it owns failures
	next      moment        // when to call again, unless calling
	ready     chan struct{} // closed after the first call, and nil from then on

	failures int // of the last calls, in a row
	held     atomic.Pointer[held]
	trouble  atomic.Pointer[fault.Error] // of the last call, nil if it went well
}

// held are credentials and when they end on either clock. The wall clock decides what AWS will say. The monotonic one is
// there for a wall clock that was put back meanwhile: by it, what has long expired would look young.
type held struct {
	secret.Credentials
	end  moment
	from int64 // when they came, by the wall clock
}

func (e *entry) hold(c secret.Credentials) {
	e.held.Store(&held{Credentials: c, end: e.b.in(e.b.untilWall(c.Expires)), from: e.b.moment().wall})
}

// moment is a point in time on both clocks: since the broker began, and since 1970. It has come as soon as it has on
// either: the wall clock may have been put back, the monotonic one may have slept with the host.
type moment struct {
	mono time.Duration
	wall int64 // nanoseconds
}

// moment is now.
func (b *Broker) moment() moment {
	t := time.Now()
	m := moment{mono: t.Sub(b.begun), wall: t.UnixNano()}
	if b.now != nil {
		m.wall = b.now().UnixNano()
	}
	return m
}

// in is so long from now, at most a year: no session lasts that long, and no sum overflows.
func (b *Broker) in(d time.Duration) moment {
	const longest = 365 * 24 * time.Hour
	m := b.moment()
	d = min(d, longest)
	return moment{mono: m.mono + d, wall: m.wall + int64(d)}
}

// after is how long m comes after now; not at all if it is past on either clock.
func (m moment) after(now moment) time.Duration {
	return min(m.mono-now.mono, time.Duration(m.wall-now.wall))
}

// untilWall is how far t is away by the wall clock alone.
func (b *Broker) untilWall(t time.Time) time.Duration {
	if b.now != nil {
		return t.Round(0).Sub(b.now().Round(0))
	}
	return t.Round(0).Sub(time.Now().Round(0))
}

// fetch gets the first credentials.
func (e *entry) fetch(ctx context.Context) {
	c, err := e.b.call(ctx, e.grant, false)
	if err != nil {
		e.trouble.Store(err)
		e.b.refuse(e, err)
		return
	}
	e.hold(c)
	e.b.called(e, e.b.in(e.spread(c)))
}

// renew gets further ones, and keeps what there is if that fails.
func (e *entry) renew(ctx context.Context) {
	c, err := e.b.call(ctx, e.grant, true)
	switch {
	case ctx.Err() != nil: // the broker has closed: nobody looks any more
	case err != nil:
		e.failures++
		e.trouble.Store(err)
		e.b.log.WarnContext(ctx, "credentials not renewed", slog.String("role_arn", e.grant.Role.String()),
			slog.String("code", string(err.Code)), slog.String("error", err.What))
		e.b.called(e, e.b.in(backoff(e.failures)))
	default:
		e.failures = 0
		e.hold(c) // before the trouble goes: a reader must not see neither
		e.trouble.Store(nil)
		e.b.log.DebugContext(ctx, "credentials renewed", slog.String("role_arn", e.grant.Role.String()))
		e.b.called(e, e.b.in(e.spread(c)))
	}
}

// spread is how long to keep c before renewing it.
func (e *entry) spread(c secret.Credentials) time.Duration {
	life := e.b.untilWall(c.Expires)
	latest := time.Duration(renewTo * float64(life))
	// Shorter sessions are renewed earlier, so that as much is left as of one of an hour; those so short that STS would be
	// asked all the time get what they can.
	if early := life - enough; early < latest && early >= life/earliest {
		latest = early
	}
	part := renewFrom/renewTo + (1-renewFrom/renewTo)*rand.Float64() //nolint:gosec // spreads load, hides nothing
	return max(soonest, time.Duration(float64(latest)*part))
}

// backoff is the pause after so many failures in a row.
func backoff(failures int) time.Duration {
	const doublings = 5 // more would pass backoffMost anyway, and overflow at last
	d := min(backoffMost, backoffFirst<<min(failures-1, doublings))
	return d - rand.N(d/2) //nolint:gosec // spreads load, hides nothing
}

// Lease is one container's hold on credentials. It is safe for concurrent use.
type Lease struct {
	entry    *entry
	released atomic.Bool
}

// Credentials returns the current ones, from memory and at once. They have not expired by the wall clock of this host,
// which is what AWS will compare with, nor by the time that has passed since they were fetched. Whoever finds them
// expired, as after the host was suspended, has the clocks looked at anew, so that the next one need not wait. The fault
// is credentials-expired if nothing valid is left, with what STS said last, and credentials-not-ready if there never was
// anything or the lease has been released.
func (l *Lease) Credentials() (secret.Credentials, error) {
	if l.released.Load() {
		return secret.Credentials{}, fault.New(fault.CredentialsNotReady, "the container gave its credentials back", "")
	}
	e := l.entry
	c, trouble := e.held.Load(), e.trouble.Load()
	switch {
	case c == nil && trouble != nil:
		return secret.Credentials{}, trouble
	case c == nil:
		return secret.Credentials{}, fault.New(fault.CredentialsNotReady,
			fmt.Sprintf("the first credentials of the role %s are not there yet", e.grant.Role), "try again in a moment")
	case c.end.after(e.b.moment()) > 0:
		return c.Credentials, nil
	}
	e.b.wake()
	what := fmt.Sprintf("the credentials of the role %s expired at %s", e.grant.Role, c.Expires.UTC().Format(time.RFC3339))
	if trouble == nil {
		return secret.Credentials{}, fault.New(fault.CredentialsExpired, what+" and are being renewed", "try again in a moment")
	}
	return secret.Credentials{}, fault.Wrap(trouble, fault.CredentialsExpired, what+"; "+trouble.What, trouble.Hint)
}

// Release gives the lease back. The last one stops the renewal. It may be called more than once.
func (l *Lease) Release() {
	if l.released.CompareAndSwap(false, true) {
		l.entry.b.leave(l.entry)
	}
}
