package systemd_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"taskrole/internal/systemd"
)

// manager listens as systemd does.
func manager(t *testing.T, watchdog time.Duration) (next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return func() string {
		b := make([]byte, 1<<10)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
}

func none(t *testing.T) func(error) {
	t.Helper()
	return func(err error) { t.Errorf("failed: %v", err) }
}

func TestStatesAreTold(t *testing.T) {
	next := manager(t, 0)
	for _, c := range []struct {
		tell func() error
		want string
	}{
		{func() error { return systemd.Ready("3 roles") }, `^READY=1\nSTATUS=3 roles$`},
		{systemd.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9]\d*\n?$`},
		{systemd.Stopping, `^STOPPING=1$`},
	} {
		if err := c.tell(); err != nil {
			t.Fatal(err)
		}
		if got := next(); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("told %q, want %s", got, c.want)
		}
	}
}

func TestWithoutAManagerNothingHappens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := systemd.Ready("x"); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "")
	systemd.Watch(t.Context(), nil, none(t)) // returns, and calls nothing
}

func TestAManagerThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := systemd.Stopping(); err == nil {
		t.Error("no error from a socket that is not there")
	}
}

func TestPingsComeWhileTheServiceAnswersAndOnlyThen(t *testing.T) {
	next := manager(t, 90*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var sick atomic.Bool
	failures := make(chan error, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		systemd.Watch(ctx, func(context.Context) error {
			if sick.Load() {
				return errors.New("sick")
			}
			return nil
		}, func(err error) { failures <- err })
	}()
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Fatalf("told %q", got)
		}
	}
	sick.Store(true)
	<-failures
	cancel()
	<-done
	if err := systemd.Stopping(); err != nil {
		t.Fatal(err)
	}
	// Pings from before it fell sick may still be in the queue: at most two more than the three, since the period of
	// the failure ended all.
	for range 3 {
		if next() == "STOPPING=1" {
			return
		}
	}
	t.Error("pings went on after the service had fallen sick")
}

func TestAServiceThatHangsIsAskedOnceAndNotSaidToBeAlive(t *testing.T) {
	next := manager(t, 30*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var asked atomic.Int32
	failures := make(chan error, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		systemd.Watch(ctx, func(context.Context) error { asked.Add(1); <-hang; return nil }, func(err error) { failures <- err })
	}()
	<-failures
	<-failures
	cancel()
	<-done
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if err := systemd.Stopping(); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "STOPPING=1" {
		t.Errorf("told %q of a service that hangs", got)
	}
}
