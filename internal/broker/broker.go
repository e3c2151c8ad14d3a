// Package broker keeps the credentials of every container in memory and fresh.
//
// It is asked for a grant and answers with a Lease, from which credentials are read without waiting. There is one call to
// STS at a time for a grant, however many containers share it: it is fetched once, renewed at 30 to 50 % of its life, and
// no more after the last lease. One goroutine and one timer watch over all grants, so that one that is not due costs
// nothing but what it holds. The SDK's own aws.CredentialsCache is not used because it renews in the foreground of
// whoever asks, and throws the old value away when that fails.
//
// The broker refuses to serve what has expired, and to drop what has not. It knows nothing of AWS beyond the Source it
// is given, and never writes anything down. Its test double is any Source.
package broker

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// Source gives credentials for a grant: awssts.Client outside tests. Its errors should be *fault.Error; whatever they
// are, they reach the person who started the container. It must return when ctx ends.
type Source interface {
	AssumeRole(ctx context.Context, g grant.Grant) (secret.Credentials, error)
}

// Options say how a Broker works. Only Source must be set.
type Options struct {
	Source Source
	Logger *slog.Logger // nil: nothing is logged
	// CallsPerSecond caps the calls to Source of all grants together; one second's worth may come at once. 0 means 20.
	// STS allows 600 a second for a whole account and region, so one host must not take much of it.
	CallsPerSecond float64
	// Now is the wall clock; nil means time.Now. Tests set it to make the clock jump.
	Now func() time.Time
}

const (
	defaultCalls = 20
	// callLimit is for a Source without a time limit of its own; awssts gives up long before.
	callLimit = 20 * time.Second
	// refusedFor is how long a failure answers for its grant: long enough that a container in a restart loop does not
	// hammer STS, short enough that whoever has just mended the trust policy does not notice.
	refusedFor = 3 * time.Second
	// idleFor is how long credentials outlive their last lease, without being renewed: a container that restarts has
	// the same grant again and needs no call.
	idleFor = 2 * time.Minute
)

// Broker hands out leases. It is safe for concurrent use.
type Broker struct {
	source Source
	log    *slog.Logger
	now    func() time.Time // nil: the wall clock is time.Now, and one look reads both clocks
	begun  time.Time        // where the monotonic clock is counted from
	// calls caps everything; renewals, which can wait, pass background first, so that half of the calls are left for
	// containers that are just starting.
	calls, background *rate.Limiter

	ctx     context.Context //nolint:containedctx // the life of the broker's own goroutines, not of a request
	cancel  context.CancelFunc
	running sync.WaitGroup // the watch and one for each call; Close waits
	changed chan struct{}  // the watch is to look again

	mu      sync.Mutex // guards what follows, and what the entries say it does
	closed  bool
	entries map[key]*entry  // by what keyOf says
	refused map[key]refusal // grants whose first call failed a moment ago
}

type refusal struct {
	until time.Time // monotonic: a jumping wall clock must not lock anybody out
	err   *fault.Error
}

// New makes a Broker. Whoever made it calls Close.
func New(o Options) *Broker {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CallsPerSecond <= 0 {
		o.CallsPerSecond = defaultCalls
	}
	limiter := func(perSecond float64) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(perSecond), int(math.Max(1, math.Ceil(perSecond))))
	}
	b := &Broker{
		source: o.Source, log: o.Logger, now: o.Now, begun: time.Now(), changed: make(chan struct{}, 1),
		calls: limiter(o.CallsPerSecond), background: limiter(o.CallsPerSecond / 2), //nolint:mnd // half
		entries: map[key]*entry{}, refused: map[key]refusal{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.running.Go(b.watch)
	return b
}

// Close stops every renewal and waits for them. Leases go on answering from memory until what they hold expires;
// Acquire fails from now on.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.running.Wait()
}

// Acquire returns a lease on credentials for the grant, and waits until there are some. The fault of the first call is
// returned to everybody who waited for it, and for a few seconds to whoever asks next. When ctx ends first, the fault is
// credentials-not-ready, and the call goes on for the others. The caller releases the lease.
func (b *Broker) Acquire(ctx context.Context, g grant.Grant) (*Lease, error) {
	e, ready, err := b.join(g)
	if err != nil {
		return nil, err
	}
	l := &Lease{entry: e}
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			l.Release()
			return nil, fault.Wrap(ctx.Err(), fault.CredentialsNotReady,
				fmt.Sprintf("STS has not answered yet for the role %s", g.Role), "try again in a moment")
		}
	}
	// Not only the first failure: the credentials of a grant that others hold may have run out.
	if _, err := l.Credentials(); err != nil {
		l.Release()
		return nil, err
	}
	return l, nil
}

// key stands for a grant.Key, of which it is a third.
type key [sha256.Size]byte

func keyOf(g grant.Grant) key { return sha256.Sum256([]byte(g.Key())) }

// join finds or makes the entry of the grant and counts the caller as a holder. ready is closed after the first call; nil
// says that it has been.
func (b *Broker) join(g grant.Grant) (_ *entry, ready <-chan struct{}, err error) {
	key := keyOf(g)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, fault.New(fault.CredentialsNotReady, "the agent is stopping", "try again when it is back")
	}
	if r, ok := b.refused[key]; ok && time.Now().Before(r.until) {
		return nil, nil, r.err
	}
	e, ok := b.entries[key]
	if !ok {
		e = &entry{b: b, grant: g, key: key, ready: make(chan struct{}), calling: true}
		b.entries[key] = e
		b.running.Go(func() { e.fetch(b.ctx) })
	}
	e.holders++
	if e.holders == 1 && ok {
		b.wake()
	}
	return e, e.ready, nil
}

// leave takes one holder off the entry.
func (b *Broker) leave(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.holders--
	if e.holders == 0 {
		e.idleSince = b.moment().mono
		b.wake()
	}
}

// wake makes the watch look again.
func (b *Broker) wake() {
	select {
	case b.changed <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// watch starts the renewal of whatever is due, until the broker closes.
func (b *Broker) watch() {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-timer.C:
		case <-b.changed:
		}
		timer.Reset(b.renewDue())
	}
}

// renewDue starts the renewal of what is due and drops what nobody holds any more. It returns how long nothing else will
// be to do. It looks at every grant: that takes microseconds, and happens not much more often than a renewal.
func (b *Broker) renewDue() time.Duration {
	pause := tick
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.moment()
	for _, e := range b.entries {
		if e.calling {
			continue // it wakes us when it is done
		}
		left := e.next.after(now)
		if e.holders == 0 {
			left = min(left, idleFor-(now.mono-e.idleSince))
		}
		switch {
		case left > 0:
			pause = min(pause, left)
		case e.holders == 0:
			// What is due is not kept for a later lease, so that a lease always begins with fresh credentials.
			delete(b.entries, e.key)
		default:
			e.calling = true
			b.running.Go(func() { e.renew(b.ctx) })
		}
	}
	return pause
}

// called notes when to call for the entry again, after its call has ended.
func (b *Broker) called(e *entry, next moment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.next, e.calling = next, false
	if e.ready != nil {
		close(e.ready)
		e.ready = nil
	}
	b.wake()
}

// refuse takes the entry out after its first call failed, and remembers the fault for a moment.
func (b *Broker) refuse(e *entry, err *fault.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, e.key)
	close(e.ready)
	e.ready = nil
	now := time.Now()
	for k, r := range b.refused { // so the map holds what came within refusedFor, which the call cap bounds
		if !now.Before(r.until) {
			delete(b.refused, k)
		}
	}
	b.refused[e.key] = refusal{until: now.Add(refusedFor), err: err}
}

// call asks the source once, within the cap, and checks what it gives.
func (b *Broker) call(ctx context.Context, g grant.Grant, renewal bool) (secret.Credentials, *fault.Error) {
	if renewal {
		if err := b.background.Wait(ctx); err != nil {
			return secret.Credentials{}, stopping(err)
		}
	}
	if err := b.calls.Wait(ctx); err != nil {
		return secret.Credentials{}, stopping(err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	c, err := b.source.AssumeRole(ctx, g)
	switch {
	case err != nil && ctx.Err() != nil && fault.CodeOf(err) == fault.Internal:
		return secret.Credentials{}, fault.Wrap(err, fault.STSUnreachable,
			fmt.Sprintf("STS did not answer for the role %s within %s", g.Role, callLimit), "check the way to STS")
	case err != nil:
		return secret.Credentials{}, fault.As(err)
	case !c.Complete():
		return secret.Credentials{}, fault.New(fault.STSUnreachable,
			fmt.Sprintf("STS gave an incomplete answer for the role %s", g.Role), "check that sts.endpoint really is STS")
	case b.untilWall(c.Expires) <= 0:
		return secret.Credentials{}, fault.New(fault.CredentialsExpired,
			fmt.Sprintf("STS gave credentials for the role %s that expired at %s, which is past on this host", g.Role,
				c.Expires.UTC().Format(time.RFC3339)), "set this host's clock")
	}
	return c, nil
}

func stopping(err error) *fault.Error {
	return fault.Wrap(err, fault.CredentialsNotReady, "the agent is stopping", "try again when it is back")
}
