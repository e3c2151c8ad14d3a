// Package testkit is what the tests of every package share: saying what a test needs of the machine, and noticing
// what it leaves behind.
//
// It refuses to skip in silence. A test that needs root, a network namespace or an engine calls Need; where the
// machine does not have it the test is skipped with the reason, and where TASKROLE_TEST_REQUIRE names the feature the
// test fails instead, so that a run that was meant to cover it cannot pass by accident. Only tests import this package.
package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Feature is something of the machine that not every machine has.
type Feature string

// The features tests ask for.
const (
	// Root is an effective user id of 0, with the capabilities of the initial user namespace.
	Root Feature = "root"
	// NetNS is the right to make network namespaces; root in a user namespace of one's own is enough.
	NetNS Feature = "netns"
	// SkLookup is a kernel that loads BPF programs of the type sk_lookup (Linux 5.9) for us.
	SkLookup Feature = "sk_lookup"
	// Cgroup2 is a cgroup v2 hierarchy in which we may make cgroups.
	Cgroup2 Feature = "cgroup2"
	// Docker is a Docker daemon's program and client on the PATH, and the right to start it.
	Docker Feature = "docker"
	// SystemdAnalyze is systemd's judge of units, of a version that judges a file (systemd 250).
	SystemdAnalyze Feature = "systemd-analyze"
	// Groff formats manual pages.
	Groff Feature = "groff"
	// Shells are dash, bash, zsh and fish.
	Shells Feature = "shells"
)

// requireVariable holds the features a run must not skip: a comma-separated list, or "all".
const requireVariable = "TASKROLE_TEST_REQUIRE"

// withoutVariable holds, in the same way, features that count as absent: a run of the quick tests is then the same for
// root and for everybody else.
const withoutVariable = "TASKROLE_TEST_WITHOUT"

// Need skips the test where the machine lacks one of the features, and fails it where the run requires that feature.
func Need(tb testing.TB, needs ...Feature) {
	tb.Helper()
	for _, f := range needs {
		err := probe(f)
		if err == nil {
			continue
		}
		if listed(os.Getenv(requireVariable), f) {
			tb.Fatalf("needs %s, which %s requires: %v", f, requireVariable, err)
		}
		tb.Skipf("skipped: needs %s: %v", f, err)
	}
}

// Has says whether the machine has the feature, for tests that can do with less.
func Has(f Feature) bool { return probe(f) == nil }

func listed(list string, f Feature) bool {
	words := strings.Split(list, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return slices.Contains(words, string(f)) || slices.Contains(words, "all")
}

// probe returns why the machine lacks f, or nil.
func probe(f Feature) error {
	if listed(os.Getenv(withoutVariable), f) {
		return fmt.Errorf("%s leaves it out", withoutVariable)
	}
	switch f {
	case Root:
		return probeRoot()
	case NetNS:
		return probeNetNS()
	case SkLookup:
		return features.HaveProgramType(ebpf.SkLookup)
	case Cgroup2:
		return probeCgroup2()
	case Docker:
		return probeDocker()
	case SystemdAnalyze, Groff:
		_, err := exec.LookPath(string(f))
		return err
	case Shells:
		return onPath("dash", "bash", "zsh", "fish")
	default:
		return fmt.Errorf("nobody knows how to find %q", string(f))
	}
}

func probeRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("the user id is %d", uid)
	}
	return nil
}

func probeNetNS() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, now in another namespace, dies with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot die. While it is locked here, another goroutine runs on another thread.
			done <- probeNetNS()
			runtime.UnlockOSThread()
			return
		}
		done <- os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET))
	}()
	return <-done
}

// Cgroup2Mounts are the places where a host has its cgroup v2 hierarchy: hybrid hosts first.
func Cgroup2Mounts() []string { return []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} }

func probeCgroup2() error {
	for _, dir := range Cgroup2Mounts() {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		return os.NewSyscallError("access "+dir, unix.Access(dir, unix.W_OK))
	}
	return errors.New("no cgroup v2 hierarchy is mounted")
}

func probeDocker() error {
	if err := onPath("dockerd", "docker"); err != nil {
		return err
	}
	return probeRoot()
}

func onPath(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return err
		}
	}
	return nil
}
