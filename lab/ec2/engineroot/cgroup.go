package engineroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups are all that belongs to one engine in every hierarchy of the machine: one directory below each root. The
// daemon and what it leaves behind are in "d", its containers in "c"; the v2 hierarchy, which every kernel has even
// where the controllers are on v1, says who is in it.
type cgroups struct {
	v2   string   // the directory in the v2 hierarchy
	dirs []string // all directories, v2 among them
}

// makeCgroups mounts the v2 hierarchy at a place of its own, point, and makes the directory there. Directories in
// v1 hierarchies are made by the engine when it wants them.
func makeCgroups(p Plan) (*cgroups, error) {
	point := filepath.Join(p.Dir, "cgroup")
	if err := os.Mkdir(point, 0o755); err != nil {
		return nil, err
	}
	if err := mount("cgroup2", point, "cgroup2", 0, ""); err != nil {
		return nil, err
	}
	c := &cgroups{v2: filepath.Join(point, p.Cgroup)}
	if err := os.MkdirAll(filepath.Join(c.v2, "d"), 0o755); err != nil {
		return nil, fmt.Errorf("make the engine's cgroup: %w", err)
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return nil, err
	}
	for _, root := range append(roots, "/sys/fs/cgroup") {
		c.dirs = append(c.dirs, filepath.Join(root, p.Cgroup))
	}
	c.dirs = append(c.dirs, c.v2)
	return c, nil
}

// kill ends every process of the engine and waits until they are gone, until ctx ends.
func (c *cgroups) kill(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		pids := c.processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone meanwhile, or be a zombie; the next round tells
		}
		reap()
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end", pids)
		case <-tick.C:
		}
	}
}

// processes lists who is in the engine's cgroups.
func (c *cgroups) processes() []int {
	var pids []int
	for _, dir := range c.dirs {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil //nolint:nilerr // cgroups come and go while we look
			}
			data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if err != nil {
				return nil //nolint:nilerr // likewise
			}
			for word := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// remove removes the directories, innermost first, and tries again until ctx ends: a cgroup stays busy for a moment
// after its last process has gone.
func (c *cgroups) remove(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var errs []error
		for _, dir := range c.dirs {
			errs = append(errs, removeTree(dir))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func removeTree(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // cgroups come and go while we look
	})
	var errs []error
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// reap waits for all children that have ended. A subreaper also gets those of processes that died before them.
func reap() {
	for ok := true; ok; {
		_, _, ok = reapOne()
	}
}

// reapOne waits for one child that has ended, if there is one.
func reapOne() (pid int, status unix.WaitStatus, ok bool) {
	for {
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return pid, status, err == nil && pid > 0
		}
	}
}
