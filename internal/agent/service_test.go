package agent_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSystemdIsToldHowTheAgentIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "150000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	next := func(want string) {
		t.Helper()
		for b := make([]byte, 1<<10); ; {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("waiting for %q: %v", want, err)
			}
			got := string(b[:n])
			if strings.HasPrefix(got, want) {
				return
			}
			if got != "WATCHDOG=1" { // pings come all the time
				t.Fatalf("told %q, want %q", got, want)
			}
		}
	}

	w := newWorld(t)
	next("READY=1\nSTATUS=roles: 4")
	next("WATCHDOG=1")
	w.reload <- syscall.SIGHUP
	next("RELOADING=1\nMONOTONIC_USEC=")
	next("READY=1\nSTATUS=roles: 4")
	w.write("config.yaml", "roles: 7")
	w.reload <- syscall.SIGHUP
	next("RELOADING=1\nMONOTONIC_USEC=")
	next("READY=1\nSTATUS=roles: 4") // the old one stays
	w.stop()
	next("STOPPING=1")
}
