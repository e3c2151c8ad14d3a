package engineroot

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is mount(2) with an error that says what was to be mounted where.
func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstypeOr(fstype, source), target, err)
	}
	return nil
}

func fstypeOr(fstype, source string) string {
	if fstype == "" {
		return source
	}
	return fstype
}

// enterRoot arranges the mounts of this process's own mount namespace, in which the engine then lives. Nothing of it
// is visible outside, and all of it vanishes with the last process inside.
func enterRoot(p Plan) error {
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	var err error
	if p.Root == "" {
		err = overMachine(p)
	} else {
		err = enterTree(p)
	}
	if err != nil {
		return err
	}
	// Images and layers in memory: no fsync of theirs takes time, and nothing of them can be left behind.
	if err := os.Mkdir(p.data(), 0o710); err != nil {
		return err
	}
	return mount("tmpfs", p.data(), "tmpfs", 0, "mode=0710")
}

// overMachine keeps the machine's root and covers what a second daemon would share with a first one: /run with the
// sockets of a running containerd and firewalld (dockerd would use both) and /etc, where it writes a key.
func overMachine(p Plan) error {
	cover := filepath.Join(p.Dir, "cover")
	if err := os.Mkdir(cover, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", cover, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := overlay("/etc", cover, "/etc"); err != nil {
		return err
	}
	if err := freshSys(p, ""); err != nil {
		return err
	}
	return freshRun("", p)
}

// enterTree makes an overlay of the tree, so that one tree serves many engines and stays as it is, completes it, and
// makes it the root by pivot_root. chroot would not do: under a chrooted daemon, docker exec and nsenter land on the
// machine's real root, outside the container.
func enterTree(p Plan) error {
	root := p.root()
	cover := filepath.Join(p.Dir, "cover")
	for _, dir := range []string{root, cover} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", cover, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := overlay(p.Root, cover, root); err != nil {
		return err
	}
	if err := mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return err
	}
	if err := mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := freshSys(p, root); err != nil {
		return err
	}
	if err := freshRun(root, p); err != nil {
		return err
	}
	return pivot(root)
}

// overlay mounts lower on target, with changes going below cover, which should be a tmpfs.
func overlay(lower, cover, target string) error {
	upper, work := filepath.Join(cover, "upper"), filepath.Join(cover, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return mount("overlay", target, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
}

// freshSys mounts a sysfs of the network namespace we are in, instead of the machine's, and the cgroups on it.
func freshSys(p Plan, root string) error {
	sys := filepath.Join(p.Dir, "sys")
	if err := os.Mkdir(sys, 0o755); err != nil {
		return err
	}
	if err := mount("sysfs", sys, "sysfs", 0, ""); err != nil {
		return err
	}
	cgroup := filepath.Join(sys, "fs/cgroup")
	if p.CgroupV2 {
		if err := mount("cgroup2", cgroup, "cgroup2", 0, ""); err != nil {
			return err
		}
	} else if err := mount("/sys/fs/cgroup", cgroup, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return mount(sys, filepath.Join(root, "/sys"), "", unix.MS_MOVE, "")
}

// freshRun mounts an empty /run below root, and then binds what the engine shares with the rest: its own directory
// and the plan's. They may be below the machine's /run, so they are opened before it is covered.
func freshRun(root string, p Plan) error {
	binds := slices.Concat([]string{p.Dir}, p.Binds)
	slices.Sort(binds) // a directory before what is in it
	opened := make([]*os.File, 0, len(binds))
	defer func() {
		for _, f := range opened {
			_ = f.Close()
		}
	}()
	for _, dir := range binds {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("share a directory with the engine: %w", err)
		}
		opened = append(opened, f)
	}
	if err := mount("tmpfs", filepath.Join(root, "/run"), "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for n, dir := range binds {
		if root == "" && !strings.HasPrefix(dir, "/run/") && !strings.HasPrefix(dir, "/etc/") {
			continue // it is where it was
		}
		target := filepath.Join(root, dir)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		source := fmt.Sprintf("/proc/self/fd/%d", opened[n].Fd())
		// Not recursively: what is mounted below the engine's directory by now is the root we are making.
		if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root of this mount namespace and takes the old one away: with both arguments the same, the
// old root is stacked on the new one and can be detached from there (pivot_root(2), NOTES).
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the machine's root: %w", err)
	}
	return os.Chdir("/")
}

// detachBelow unmounts everything strictly below dir in this mount namespace.
func detachBelow(dir string) error {
	points, err := mountsBelow("/proc/self/mountinfo", dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(points) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow lists the mount points strictly below dir, in the order they were mounted.
func mountsBelow(mountinfo, dir string) ([]string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var found []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// "36 35 98:0 / /mnt rw ..." (proc(5)); we only look for paths of our own making, which need no unescaping
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found, lines.Err()
}
