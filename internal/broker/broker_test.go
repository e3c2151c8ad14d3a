package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/broker"
	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// source is STS: every call takes latency and is answered by answer, or with an hour.
type source struct {
	latency time.Duration
	now     func() time.Time

	mu    sync.Mutex
	calls []time.Time
	fail  error
	life  time.Duration
}

func (s *source) AssumeRole(ctx context.Context, g grant.Grant) (secret.Credentials, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	n, fail, life := len(s.calls), s.fail, s.life
	s.mu.Unlock()
	if s.latency > 0 { // a timer that is due at once crashes Go 1.26's race detector inside a bubble now and then
		select {
		case <-time.After(s.latency):
		case <-ctx.Done():
			return secret.Credentials{}, ctx.Err()
		}
	}
	if fail != nil {
		return secret.Credentials{}, fail
	}
	if life == 0 {
		life = time.Hour
	}
	now := time.Now
	if s.now != nil {
		now = s.now
	}
	return secret.Credentials{
		AccessKeyID: fmt.Sprintf("ASIA%d", n), SecretAccessKey: secret.New("s"), SessionToken: secret.New("t"),
		Expires: now().UTC().Truncate(time.Second).Add(life), RoleARN: g.Role.String(),
	}, nil
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *source) set(fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func theGrant(session string) grant.Grant {
	return grant.Grant{Role: arn.Role{Partition: "aws", Account: "123456789012", Path: "/", Name: "app"}, Session: session}
}

func acquire(t *testing.T, b *broker.Broker, session string) *broker.Lease {
	t.Helper()
	l, err := b.Acquire(t.Context(), theGrant(session))
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return l
}

func denied() error {
	return fault.New(fault.STSDenied, "AWS refuses the role", "mend the trust policy")
}

func TestOneFlightHoweverManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{latency: time.Second}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() { acquire(t, b, "same") })
		}
		wg.Wait()
		if s.count() != 1 {
			t.Errorf("%d calls for one grant, want 1", s.count())
		}
		acquire(t, b, "other")
		if s.count() != 2 {
			t.Errorf("%d calls for two grants, want 2", s.count())
		}
	})
}

func TestWhoLeavesDoesNotCancelTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{latency: 5 * time.Second}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left := make(chan error, 1)
		go func() { _, err := b.Acquire(ctx, theGrant("x")); left <- err }() // it made the flight
		synctest.Wait()
		acquire(t, b, "x")
		if err := <-left; fault.CodeOf(err) != fault.CredentialsNotReady || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who left got %v", err)
		}
		if s.count() != 1 {
			t.Errorf("%d calls, want 1", s.count())
		}
	})
}

func TestRenewsBetween30And50PercentOfLifeSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s, CallsPerSecond: 1000})
		defer b.Close()
		start := time.Now()
		for i := range 200 {
			acquire(t, b, fmt.Sprint(i))
		}
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		s.mu.Lock()
		renewals := slices.Clone(s.calls[200:400]) // each grant renewed once by now; the second time at minute 36 at the earliest
		s.mu.Unlock()
		var early, late int
		for _, at := range renewals {
			switch d := at.Sub(start); {
			case d < 18*time.Minute || d > 30*time.Minute+time.Second:
				t.Fatalf("renewed after %s of an hour", d)
			case d < 22*time.Minute:
				early++
			case d > 26*time.Minute:
				late++
			}
		}
		if s.count() != 400 || early < 20 || late < 20 {
			t.Errorf("%d calls, %d renewals before minute 22 and %d after 26 of 200: not spread", s.count(), early, late)
		}
	})
}

// Over two days of perfect service nobody ever reads credentials with less than 30 minutes left (rule R8).
func TestR8AtLeastHalfTheLifeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := broker.New(broker.Options{Source: &source{latency: 300 * time.Millisecond}})
		defer b.Close()
		l := acquire(t, b, "x")
		for range 48 * 60 * 4 {
			time.Sleep(15 * time.Second)
			c, err := l.Credentials()
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(c.Expires); left < 30*time.Minute-2*time.Second {
				t.Fatalf("%s left", left)
			}
		}
	})
}

func TestKeepsTheLastGoodThroughFailuresAndNeverServesExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		l := acquire(t, b, "x")
		first, _ := l.Credentials()
		s.set(fault.New(fault.STSUnreachable, "STS is throttling", "wait"))
		for time.Until(first.Expires) > time.Second {
			time.Sleep(time.Second)
			if c, err := l.Credentials(); err != nil || c.AccessKeyID != first.AccessKeyID {
				t.Fatalf("%s before the end: %v, %v", time.Until(first.Expires), c.AccessKeyID, err)
			}
		}
		tries := s.count() - 1 // 30 to 42 minutes at a pause of 15 to 30 s, and the first few quicker
		if tries < 60 || tries > 180 {
			t.Errorf("%d tries while STS was away, want 60 to 180", tries)
		}
		time.Sleep(time.Second)
		_, err := l.Credentials()
		if fault.CodeOf(err) != fault.CredentialsExpired || !strings.Contains(err.Error(), "STS is throttling") {
			t.Errorf("after the end: %v", err)
		}
		if _, err := b.Acquire(t.Context(), theGrant("x")); fault.CodeOf(err) != fault.CredentialsExpired {
			t.Errorf("a new lease on what has expired: %v", err)
		}
		s.set(nil)
		time.Sleep(31 * time.Second)
		if c, err := l.Credentials(); err != nil || c.AccessKeyID == first.AccessKeyID {
			t.Errorf("STS is back and we have %v, %v", c.AccessKeyID, err)
		}
	})
}

func TestRenewalStopsWithTheLastLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		l1, l2 := acquire(t, b, "x"), acquire(t, b, "x")
		l1.Release()
		l1.Release()
		time.Sleep(2 * time.Hour)
		n := s.count()
		if n < 4 {
			t.Errorf("%d calls in two hours with a lease left", n)
		}
		l2.Release()
		time.Sleep(24 * time.Hour)
		if s.count() != n {
			t.Errorf("%d calls after the last lease", s.count()-n)
		}
		if _, err := l2.Credentials(); fault.CodeOf(err) != fault.CredentialsNotReady {
			t.Errorf("a released lease answers %v", err)
		}
		acquire(t, b, "x")
		if s.count() != n+1 {
			t.Errorf("%d calls for a new lease a day later, want 1", s.count()-n)
		}
	})
}

func TestARestartedContainerNeedsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		for range 50 {
			l := acquire(t, b, "x")
			l.Release()
			time.Sleep(10 * time.Second)
		}
		if s.count() != 1 {
			t.Errorf("%d calls in a restart loop of 500 s, want 1", s.count())
		}
		l := acquire(t, b, "x")
		time.Sleep(23 * time.Minute) // minute 31 of the first credentials
		if c, err := l.Credentials(); err != nil || time.Until(c.Expires) < 30*time.Minute || s.count() != 2 {
			t.Errorf("a revived grant is not renewed: %v, %v left, %d calls", err, time.Until(c.Expires), s.count())
		}
	})
}

func TestARefusedRoleIsNotHammeredAndWorksAgainWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{fail: denied()}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		for range 600 { // a minute of a tight restart loop
			if _, err := b.Acquire(t.Context(), theGrant("x")); fault.CodeOf(err) != fault.STSDenied {
				t.Fatalf("Acquire: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if s.count() > 21 {
			t.Errorf("%d calls in a minute, want at most 21", s.count())
		}
		s.set(nil)
		time.Sleep(3 * time.Second)
		acquire(t, b, "x")
	})
}

func TestTheCapIsSharedByAllGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s, CallsPerSecond: 10})
		defer b.Close()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { acquire(t, b, fmt.Sprint(i)) })
		}
		wg.Wait()
		if d := time.Since(start); d < 8900*time.Millisecond || d > 9100*time.Millisecond {
			t.Errorf("100 first calls at 10 a second took %s, want 9 s", d)
		}
	})
}

// A thousand grants whose role was taken away retry for ever; a container that starts meanwhile must not queue
// behind them.
func TestRenewalsLeaveRoomForStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s, CallsPerSecond: 10})
		defer b.Close()
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { acquire(t, b, fmt.Sprint(i)) })
		}
		wg.Wait()
		s.set(denied())
		time.Sleep(45 * time.Minute)
		s.set(nil)
		start := time.Now()
		acquire(t, b, "new")
		if d := time.Since(start); d > time.Second {
			t.Errorf("a start waited %s behind renewals", d)
		}
	})
}

func TestWallClockDecidesExpiryAndJumpsAreNoticed(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": 50 * time.Minute, "past_the_end": 3 * time.Hour, "back": -5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var offset time.Duration
				now := func() time.Time {
					mu.Lock()
					defer mu.Unlock()
					return time.Now().Add(offset)
				}
				s := &source{now: now}
				b := broker.New(broker.Options{Source: s, Now: now})
				defer b.Close()
				l := acquire(t, b, "x")
				synctest.Wait() // until it has decided when to renew
				mu.Lock()
				offset = jump
				mu.Unlock()
				c, err := l.Credentials()
				if expired := !now().Before(c.Expires); err == nil && expired {
					t.Errorf("expired credentials served after a jump of %s", jump)
				}
				if jump > 0 {
					time.Sleep(31 * time.Second)
				} else {
					time.Sleep(31 * time.Minute) // the monotonic clock still counts
				}
				if c, err := l.Credentials(); err != nil || s.count() != 2 || c.Expires.Sub(now()) < 29*time.Minute {
					t.Errorf("after a jump of %s: %v, %d calls", jump, err, s.count())
				}
			})
		})
	}
}

func TestRefusesWhatTheSourceShouldNotGive(t *testing.T) {
	for name, tc := range map[string]struct {
		s    broker.Source
		code fault.Code
	}{
		"expired":    {&source{life: -time.Minute}, fault.CredentialsExpired},
		"hanging":    {&source{latency: time.Hour}, fault.STSUnreachable},
		"not_fault":  {&source{fail: errors.New("boom")}, fault.Internal},
		"incomplete": {incomplete{}, fault.STSUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := broker.New(broker.Options{Source: tc.s})
				defer b.Close()
				if _, err := b.Acquire(t.Context(), theGrant("x")); fault.CodeOf(err) != tc.code {
					t.Errorf("Acquire: %v, want code %s", err, tc.code)
				}
			})
		})
	}
}

type incomplete struct{}

func (incomplete) AssumeRole(context.Context, grant.Grant) (secret.Credentials, error) {
	return secret.Credentials{AccessKeyID: "ASIA", Expires: time.Now().Add(time.Hour)}, nil
}

func TestCloseStopsEverythingAndLeavesLeasesReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{latency: time.Second}
		b := broker.New(broker.Options{Source: s})
		l := acquire(t, b, "x")
		waiting := make(chan error, 1)
		go func() { _, err := b.Acquire(t.Context(), theGrant("y")); waiting <- err }()
		synctest.Wait()
		b.Close() // synctest fails the test if a goroutine is left
		if err := <-waiting; err == nil {
			t.Error("a waiting caller got a lease from a closed broker")
		}
		if _, err := l.Credentials(); err != nil {
			t.Errorf("a lease after Close: %v", err)
		}
		l.Release()
		if _, err := b.Acquire(t.Context(), theGrant("x")); fault.CodeOf(err) != fault.CredentialsNotReady {
			t.Errorf("Acquire after Close: %v", err)
		}
	})
}

func BenchmarkCredentials(b *testing.B) {
	br := broker.New(broker.Options{Source: &source{}})
	defer br.Close()
	l, err := br.Acquire(b.Context(), theGrant("x"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Credentials(); err != nil {
			b.Fatal(err)
		}
	}
}
