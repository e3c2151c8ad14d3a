package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/broker"
	"taskrole/internal/fault"
)

func TestStateTellsTheLifeAndTheTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		b := broker.New(broker.Options{Source: s})
		defer b.Close()
		begin := time.Now()
		l := acquire(t, b, "a")
		defer l.Release()
		if got := l.State(); !got.Since.Equal(begin) || got.Expires.Sub(begin.Truncate(time.Second)) != time.Hour || got.Trouble != nil {
			t.Errorf("fresh: %+v", got)
		}
		s.set(fault.New(fault.STSUnreachable, "no answer", ""))
		time.Sleep(40 * time.Minute)
		if got := l.State(); !got.Since.Equal(begin) || fault.CodeOf(got.Trouble) != fault.STSUnreachable {
			t.Errorf("not renewed: %+v", got)
		}
		time.Sleep(40 * time.Minute)
		if got := l.State(); fault.CodeOf(got.Trouble) != fault.CredentialsExpired {
			t.Errorf("expired: %+v", got)
		}
		s.set(nil)
		time.Sleep(10 * time.Minute)
		if got := l.State(); !got.Since.After(begin.Add(time.Hour)) || got.Trouble != nil {
			t.Errorf("renewed: %+v", got)
		}
	})
}
