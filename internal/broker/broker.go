// Package broker keeps the credentials of every container in memory and fresh.
//
// It is asked for a grant and answers with a Lease, from which credentials are read without waiting. One goroutine a
// grant talks to STS, however many containers share it: it fetches once, renews at 30 to 50 % of the life, and stops
// with the last lease. The SDK's own aws.CredentialsCache is not used because it renews in the foreground of
// whoever asks, and throws the old value away when that fails.
//
// The broker refuses to serve what has expired, and to drop what has not. It knows nothing of AWS beyond the Source it
// is given, and never writes anything down. Its test double is any Source.
package broker

import (
	"context"
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
	now    func() time.Time
	// calls caps everything; renewals, which can wait, pass background first, so that half of the calls are left for
	// containers that are just starting.
	calls, background *rate.Limiter

	ctx     context.Context //nolint:containedctx // the life of the broker's own goroutines, not of a request
	cancel  context.CancelFunc
	running sync.WaitGroup // one for each entry's goroutine; Close waits

	mu      sync.Mutex // guards what follows, and the holders and idleSince of every entry
	closed  bool
	entries map[string]*entry  // by grant.Key
	refused map[string]refusal // grants whose first call failed a moment ago
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
	if o.Now == nil {
		o.Now = time.Now
	}
	limiter := func(perSecond float64) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(perSecond), int(math.Max(1, math.Ceil(perSecond))))
	}
	b := &Broker{
		source: o.Source, log: o.Logger, now: o.Now,
		calls: limiter(o.CallsPerSecond), background: limiter(o.CallsPerSecond / 2), //nolint:mnd // half
		entries: map[string]*entry{}, refused: map[string]refusal{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
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
	e, err := b.join(g)
	if err != nil {
		return nil, err
	}
	l := &Lease{entry: e}
	select {
	case <-e.ready:
	case <-ctx.Done():
		l.Release()
		return nil, fault.Wrap(ctx.Err(), fault.CredentialsNotReady,
			fmt.Sprintf("STS has not answered yet for the role %s", g.Role), "try again in a moment")
	}
	// Not only the first failure: the credentials of a grant that others hold may have run out.
	if _, err := l.Credentials(); err != nil {
		l.Release()
		return nil, err
	}
	return l, nil
}

// join finds or makes the entry of the grant and counts the caller as a holder.
func (b *Broker) join(g grant.Grant) (*entry, error) {
	key := g.Key()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fault.New(fault.CredentialsNotReady, "the agent is stopping", "try again when it is back")
	}
	if r, ok := b.refused[key]; ok && time.Now().Before(r.until) {
		return nil, r.err
	}
	e, ok := b.entries[key]
	if !ok {
		e = &entry{b: b, grant: g, key: key, ready: make(chan struct{}), changed: make(chan struct{}, 1)}
		b.entries[key] = e
		b.running.Go(func() { e.run(b.ctx) })
	}
	e.holders++
	if e.holders == 1 {
		e.wake()
	}
	return e, nil
}

// leave takes one holder off the entry.
func (b *Broker) leave(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.holders--
	if e.holders == 0 {
		e.idleSince = time.Now()
		e.wake()
	}
}

// refuse takes the entry out after its first call failed, and remembers the fault for a moment.
func (b *Broker) refuse(e *entry, err *fault.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, e.key)
	now := time.Now()
	for k, r := range b.refused { // so the map holds what came within refusedFor, which the call cap bounds
		if !now.Before(r.until) {
			delete(b.refused, k)
		}
	}
	b.refused[e.key] = refusal{until: now.Add(refusedFor), err: err}
}

// idle says whether nobody holds the entry, and for how long it still may stay.
func (b *Broker) idle(e *entry) (left time.Duration, idle bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return idleFor - time.Since(e.idleSince), e.holders == 0
}

// drop takes the entry out if still nobody holds it.
func (b *Broker) drop(e *entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.holders > 0 {
		return false
	}
	delete(b.entries, e.key)
	return true
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
	c, err := b.ask(ctx, g)
	switch {
	case err != nil && ctx.Err() != nil && fault.CodeOf(err) == fault.Internal:
		return secret.Credentials{}, fault.Wrap(err, fault.STSUnreachable,
			fmt.Sprintf("STS did not answer for the role %s within %s", g.Role, callLimit), "check the way to STS")
	case err != nil:
		return secret.Credentials{}, fault.As(err)
	case !c.Complete():
		return secret.Credentials{}, fault.New(fault.STSUnreachable,
			fmt.Sprintf("STS gave an incomplete answer for the role %s", g.Role), "check that sts.endpoint really is STS")
	case !b.now().Before(c.Expires):
		return secret.Credentials{}, fault.New(fault.CredentialsExpired,
			fmt.Sprintf("STS gave credentials for the role %s that expired at %s, which is past on this host", g.Role,
				c.Expires.UTC().Format(time.RFC3339)), "set this host's clock")
	}
	return c, nil
}

// ask calls the source on a goroutine that ends with the call: an SDK and TLS need a stack of some 32 KB, and the entry's
// own goroutine would keep it for the life of the container.
func (b *Broker) ask(ctx context.Context, g grant.Grant) (secret.Credentials, error) {
	var c secret.Credentials
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err = b.source.AssumeRole(ctx, g)
	}()
	<-done
	return c, err
}

func stopping(err error) *fault.Error {
	return fault.Wrap(err, fault.CredentialsNotReady, "the agent is stopping", "try again when it is back")
}
