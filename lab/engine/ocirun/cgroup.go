package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupRoot finds the cgroup2 hierarchy: /sys/fs/cgroup where it is the only one, /sys/fs/cgroup/unified on a host
// that has both. It is empty on a host with version 1 alone.
func CgroupRoot() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

// makeCgroup makes the container's own cgroup and opens it, for the process to be born in it.
func makeCgroup(path string) (string, *os.File, error) {
	root := CgroupRoot()
	if path == "" || root == "" {
		return "", nil, nil
	}
	dir := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", nil, fmt.Errorf("make cgroup: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make cgroup: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, f, nil
}

// removeCgroup kills what is left in the cgroup and removes it. The kernel says busy until the last process has been
// reaped, so it tries until ctx ends. It never touches a directory outside the hierarchy: dir comes from our record.
func removeCgroup(ctx context.Context, dir string) error {
	if dir == "" {
		return nil
	}
	// Linux ≥ 5.14; before that the end of the pid namespace's first process has killed them all anyway.
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		case <-tick.C:
		}
	}
}

// RemoveCgroup removes path, below the root of the hierarchy, with the empty and not so empty cgroups in it: what
// runs there is killed. It is for the engine's own parent cgroup, after its containers.
func RemoveCgroup(path string) error {
	root := CgroupRoot()
	if root == "" || checkCgroup(path) != nil || path == "" {
		return fmt.Errorf("cgroup %q cannot be removed", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteWait)
	defer cancel()
	dir := filepath.Join(root, path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeCgroup(ctx, filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, removeCgroup(ctx, dir))...)
}

// SweepCgroups removes cgroups called PREFIX, a process id, "-" and more, of processes that are gone: what was killed
// could not clean up. It only removes what is empty, and ends nothing.
func SweepCgroups(prefix string) {
	root := CgroupRoot()
	if root == "" {
		return
	}
	found, err := filepath.Glob(filepath.Join(root, prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if n, err := strconv.Atoi(pid); err != nil || alive(n) {
			continue
		}
		inner, _ := filepath.Glob(dir + "/*/cgroup.procs") // the pattern is good
		for _, f := range inner {
			_ = unix.Rmdir(filepath.Dir(f)) // busy is not ours
		}
		_ = unix.Rmdir(dir)
	}
}
