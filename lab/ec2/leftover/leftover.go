// Package leftover looks for what a closed lab may have left behind: processes, network namespaces, mounts, cgroups
// and files that are recognised as its own.
//
// It looks only for traces it is given, never at totals, because other things on the machine come and go meanwhile.
// It only looks: it ends and removes nothing. It is a package of its own because tests of several packages use it.
package leftover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Traces is by what the lab's things are recognised.
type Traces struct {
	// Dirs are directories that must be gone, and that no command line and no mount may name.
	Dirs []string
	// NetNS are the inode numbers of network namespaces in which nobody may be and which nobody may hold open.
	NetNS []uint64
	// Cgroups are names of directories below the roots of the cgroup hierarchies, as patterns of filepath.Match.
	Cgroups []string
}

// Find describes everything that is still there, sorted. It sees processes of other users only as root.
func (t Traces) Find() ([]string, error) {
	var found []string
	for _, dir := range t.Dirs {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			found = append(found, "directory "+dir)
		}
	}
	for _, name := range t.Cgroups {
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			dirs, err := filepath.Glob(filepath.Join(pattern, name))
			if err != nil {
				return nil, err
			}
			for _, dir := range dirs {
				found = append(found, "cgroup "+dir)
			}
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, proc := range procs {
		found = append(found, t.inProcess(proc)...)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Wait looks again until nothing is found or ctx ends, and returns what was found last: the kernel takes a moment
// to let go.
func (t Traces) Wait(ctx context.Context) ([]string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := t.Find()
		if err != nil || len(found) == 0 {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, nil
		case <-tick.C:
		}
	}
}

// inProcess looks at one process; one that ends meanwhile has nothing.
func (t Traces) inProcess(proc string) []string {
	var found []string
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return nil
	}
	words := strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
	note := func(what, where string) {
		found = append(found, fmt.Sprintf("process %s (%.100s): %s %s", filepath.Base(proc), words, what, where))
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil
	}
	ours := filepath.Base(proc) == self
	// A file of our own that was mounted, or a mount namespace that still exists.
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil
	}
	for _, dir := range t.Dirs {
		if !ours && strings.Contains(words, dir) {
			note("names", dir)
		}
		if strings.Contains(string(mounts), dir) {
			note("has a mount of", dir)
		}
	}
	for _, link := range t.namespaceLinks(proc) {
		note("is in or holds", link)
	}
	return found
}

// namespaceLinks lists the threads and descriptors of a process that refer to one of the namespaces.
func (t Traces) namespaceLinks(proc string) []string {
	var wanted []string
	for _, ino := range t.NetNS {
		wanted = append(wanted, fmt.Sprintf("net:[%d]", ino))
	}
	var found []string
	for _, pattern := range []string{"task/*/ns/net", "fd/*"} {
		links, _ := filepath.Glob(filepath.Join(proc, pattern)) // the pattern is well-formed
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && slices.Contains(wanted, target) {
				found = append(found, target+" by "+strings.TrimPrefix(link, proc+"/"))
			}
		}
	}
	return found
}
