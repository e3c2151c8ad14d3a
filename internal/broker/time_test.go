package broker_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/broker"
	"taskrole/internal/fault"
)

// clock is a wall clock that can be set.
type clock struct {
	mu     sync.Mutex // guards offset
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// Where a session allows 30 minutes to be left, they are, for sessions of every length (rule R8).
func TestR8ShortSessionsAreRenewedEarlier(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		15 * time.Minute: 15 * time.Minute / 2, 35 * time.Minute: 35 * time.Minute / 2,
		40 * time.Minute: 30 * time.Minute, 45 * time.Minute: 30 * time.Minute, time.Hour: 30 * time.Minute, 12 * time.Hour: 6 * time.Hour,
	} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{life: life}
				b := broker.New(broker.Options{Source: s})
				defer b.Close()
				l := acquire(t, b, "x")
				const step = 7 * time.Second
				rounds := int(4 * life / step)
				for range rounds {
					time.Sleep(step)
					c, err := l.Credentials()
					if err != nil {
						t.Fatal(err)
					}
					if left := time.Until(c.Expires); left < want-2*time.Second {
						t.Fatalf("%s left, want %s", left, want)
					}
				}
				if n := s.count(); n > 4*8 {
					t.Errorf("%d calls in four lives", n)
				}
			})
		})
	}
}

func TestKeepsTheLastGoodWhateverIsWrongWithSTS(t *testing.T) {
	for name, wrong := range map[string]func(*source){
		"outage":     func(s *source) { s.fail = fault.New(fault.STSUnreachable, "STS does not answer", "") },
		"throttling": func(s *source) { s.fail = fault.New(fault.STSUnreachable, "STS is throttling", "") },
		"timeout":    func(s *source) { s.latency = time.Hour },
		"denied":     func(s *source) { s.fail = denied() },
		"expired":    func(s *source) { s.life = -time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{}
				b := broker.New(broker.Options{Source: s})
				defer b.Close()
				l := acquire(t, b, "x")
				first, err := l.Credentials()
				if err != nil {
					t.Fatal(err)
				}
				s.mu.Lock()
				wrong(s)
				s.mu.Unlock()
				for time.Until(first.Expires) > 5*time.Second {
					time.Sleep(5 * time.Second)
					if c, err := l.Credentials(); err != nil || c.AccessKeyID != first.AccessKeyID {
						t.Fatalf("%s before the end: %v, %v", time.Until(first.Expires), c.AccessKeyID, err)
					}
				}
				if n := s.count() - 1; n < 25 || n > 180 { // a call that hangs takes 20 s itself
					t.Errorf("%d tries in half an hour, want 25 to 180", n)
				}
				time.Sleep(5 * time.Second)
				_, err = l.Credentials()
				f := fault.As(err)
				if f == nil || f.Code != fault.CredentialsExpired || f.Status() != http.StatusServiceUnavailable || !strings.Contains(f.What, "; ") {
					t.Errorf("when nothing valid is left: %v, want 503 and the reason", err)
				}
			})
		})
	}
}

// While the host is suspended the monotonic clock stands still, so a timer would renew hours after the end. Who asks
// first after that is told the truth, and finds new credentials a moment later.
func TestSuspendedHostRenewsAsSoonAsSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		s := &source{now: c.now}
		b := broker.New(broker.Options{Source: s, Now: c.now})
		defer b.Close()
		l := acquire(t, b, "x")
		synctest.Wait()
		c.jump(8 * time.Hour)
		if _, err := l.Credentials(); fault.CodeOf(err) != fault.CredentialsExpired || !strings.Contains(err.Error(), "are being renewed") {
			t.Errorf("the first to ask: %v", err)
		}
		synctest.Wait() // no time passes
		if got, err := l.Credentials(); err != nil || got.Expires.Sub(c.now()) < 59*time.Minute {
			t.Errorf("the next one: %v", err)
		}
		if s.count() != 2 {
			t.Errorf("%d calls, want 2", s.count())
		}
	})
}

// Asking does not shorten the pauses between attempts.
func TestAskingForWhatHasExpiredDoesNotHammerSTS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		s := &source{now: c.now}
		b := broker.New(broker.Options{Source: s, Now: c.now})
		defer b.Close()
		l := acquire(t, b, "x")
		synctest.Wait()
		s.set(denied())
		c.jump(8 * time.Hour)
		before := s.count()
		for range 6000 { // ten minutes
			if _, err := l.Credentials(); err == nil {
				t.Fatal("expired credentials served")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.count() - before; n > 45 {
			t.Errorf("%d calls in ten minutes of asking, want at most 45", n)
		}
	})
}

// By a wall clock that was put back, dead credentials look young. The time that has passed says otherwise.
func TestClockPutBackDoesNotKeepTheDeadAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		s := &source{now: c.now}
		b := broker.New(broker.Options{Source: s, Now: c.now})
		defer b.Close()
		l := acquire(t, b, "x")
		synctest.Wait()
		c.jump(-5 * time.Hour)
		s.set(fault.New(fault.STSUnreachable, "STS does not answer", ""))
		time.Sleep(59 * time.Minute)
		if _, err := l.Credentials(); err != nil {
			t.Errorf("while they live: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := l.Credentials(); fault.CodeOf(err) != fault.CredentialsExpired {
			t.Errorf("after an hour: %v, want credentials-expired", err)
		}
	})
}
