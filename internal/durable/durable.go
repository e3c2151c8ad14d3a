// Package durable reads and writes whole files so that nobody ever sees half of one.
//
// A write makes a new file, brings it to the disk and renames it into place: whoever opens the path reads the old
// content or the new, also after a crash. It never writes through a symbolic link nor into a file that others have
// open. Reads are bounded, and refuse what is not a regular file. It is the one place that makes files.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Errors of ReadFile.
var (
	ErrTooLarge   = errors.New("file is too large")
	ErrNotRegular = errors.New("not a regular file")
)

// WriteFile puts data at path with exactly the permissions perm, whatever the umask. The directory must exist. A
// symbolic link at path itself is replaced, not followed.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFileAs(path, data, perm, -1, -1)
}

// WriteFileAs is WriteFile, with an owner and a group; -1 is the process's own.
func WriteFileAs(path string, data []byte, perm fs.FileMode, uid, gid int) (err error) {
	dir, name := filepath.Split(path)
	// Everything happens relative to one open directory: it cannot be exchanged between the steps.
	root, err := os.OpenRoot(filepath.Clean(dir))
	if err != nil {
		return fmt.Errorf("open the directory of %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()

	// The name ends in .tmp so that engines, which take every .json in a CDI directory, pass over it.
	temporary := "." + name + "." + rand.Text() + ".tmp"
	if err := writeNew(root, temporary, data, perm, uid, gid); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, ignoreAbsent(root.Remove(temporary))))
	}
	if err := root.Rename(temporary, name); err != nil {
		return fmt.Errorf("put %s in place: %w", path, errors.Join(err, ignoreAbsent(root.Remove(temporary))))
	}
	if err := syncDir(root); err != nil {
		return fmt.Errorf("bring %s to the disk: %w", path, err)
	}
	return nil
}

func writeNew(root *os.Root, name string, data []byte, perm fs.FileMode, uid, gid int) (err error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if uid >= 0 || gid >= 0 {
		if err := f.Chown(uid, gid); err != nil { // before the mode, whose special bits it would clear
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes the rename itself survive a crash.
func syncDir(root *os.Root) (err error) {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadFile reads at most limit bytes from the regular file at path. A longer file is ErrTooLarge, anything but a
// regular file ErrNotRegular; a symbolic link is followed.
func ReadFile(path string, limit int64) (data []byte, err error) {
	// Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: %w", path, ErrNotRegular)
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", path, ErrTooLarge, limit)
	}
	return data, nil
}
