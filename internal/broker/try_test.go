package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/broker"
	"taskrole/internal/fault"
)

func TestTryAsksEachTimeAndKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s})
		l := acquire(t, b, "a")
		defer l.Release()
		for want := 2; want < 4; want++ {
			if c, err := b.Try(t.Context(), theGrant("a")); err != nil || !c.Complete() {
				t.Errorf("Try = %v, %v", c, err)
			}
			if got := s.count(); got != want {
				t.Errorf("%d calls, want %d", got, want)
			}
		}
		s.set(fault.New(fault.STSDenied, "no", ""))
		if _, err := b.Try(t.Context(), theGrant("a")); fault.CodeOf(err) != fault.STSDenied {
			t.Errorf("Try = %v, want %s", err, fault.STSDenied)
		}
		if c, err := l.Credentials(); err != nil || c.AccessKeyID != "ASIA1" {
			t.Errorf("what a container holds is now %v, %v", c, err)
		}
		b.Close()
		if _, err := b.Try(t.Context(), theGrant("a")); fault.CodeOf(err) != fault.CredentialsNotReady {
			t.Errorf("Try = %v, want %s", err, fault.CredentialsNotReady)
		}
	})
}

func TestTriesDoNotHoldUpContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s, CallsPerSecond: 2})
		defer b.Close()
		done := make(chan struct{})
		for range 10 {
			go func() {
				_, _ = b.Try(t.Context(), theGrant("check"))
				done <- struct{}{}
			}()
		}
		synctest.Wait()
		if got := s.count(); got != 1 {
			t.Errorf("%d tries at once, want one: half of the cap", got)
		}
		begin := time.Now()
		l := acquire(t, b, "starting")
		defer l.Release()
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("a container waited %s for the tries", waited)
		}
		for range 10 {
			<-done
		}
	})
}
