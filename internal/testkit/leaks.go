package testkit

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what a test started may take to end after the last test has returned.
const patience = 3 * time.Second

// Main runs a package's tests and afterwards looks for descriptors and goroutines they left behind. It returns the
// exit code: func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }.
func Main(m *testing.M) int {
	before, goroutines := descriptors(), runtime.NumGoroutine()
	code := m.Run()
	if code != 0 || fuzzing() {
		return code
	}
	if report := Leaks(before, goroutines, patience); report != "" {
		_, _ = io.WriteString(os.Stderr, report)
		return 1
	}
	return 0
}

// fuzzing says whether this process is fuzzing or helps to: it then has pipes and goroutines that are the fuzzer's.
func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			return true
		}
	}
	return false
}

// Descriptors returns the descriptors of this process by number, with what they refer to. Those that belong to the
// runtime's poller are left out: it opens them at the first need and keeps them.
func Descriptors() map[string]string { return descriptors() }

// Leaks compares the process with an earlier state and says what there is more of, or "" when all is gone within
// the time given.
func Leaks(before map[string]string, goroutines int, within time.Duration) string {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		report := compare(before, goroutines)
		if report == "" {
			return ""
		}
		select {
		case <-deadline.C:
			return report
		case <-tick.C:
			runtime.GC() // descriptors that nobody refers to are closed by their finalizers; they are no leak
		}
	}
}

func compare(before map[string]string, goroutines int) string {
	var report strings.Builder
	for fd, target := range descriptors() {
		if before[fd] != target {
			fmt.Fprintf(&report, "leaked descriptor %s: %s\n", fd, target)
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		stacks := make([]byte, 64<<10)
		fmt.Fprintf(&report, "leaked goroutines: %d, were %d\n%s\n", n, goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	return report.String()
}

func descriptors() map[string]string {
	const dir = "/proc/self/fd"
	open := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return open
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // the descriptor this directory was read with
		}
		if target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		open[e.Name()] = target
	}
	return open
}
