package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"taskrole/internal/durable"
	"taskrole/internal/fault"
)

// maxFile bounds what is read into memory: the programs are some 20 MB.
const maxFile = 256 << 20

// found is what is at a path now.
type found struct {
	exists   bool
	data     []byte
	mode     fs.FileMode
	uid, gid int
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// at is where a path of the tree is on this host. In a tree that is not this host's own, symbolic links lead anywhere:
// there is to be none on the way.
func (o Options) at(path string) (string, error) {
	full := filepath.Join(o.Root, path)
	if o.Host {
		return full, nil
	}
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		info, err := os.Lstat(filepath.Join(o.Root, dir))
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return "", conflict(filepath.Join(o.Root, dir), "a symbolic link")
		}
	}
	return full, nil
}

// look reads what is at a path. Anything but a regular file is a fault.
func (o Options) look(path string) (found, error) {
	full, err := o.at(path)
	if err != nil {
		return found{}, err
	}
	info, err := os.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return found{}, nil
	}
	if err != nil {
		return found{}, looking(err, full)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return found{}, conflict(full, "a symbolic link")
	case info.IsDir():
		return found{}, conflict(full, "a directory")
	case !info.Mode().IsRegular():
		return found{}, conflict(full, "not a regular file")
	}
	limit := int64(maxFile)
	if path == daemonPath {
		limit = maxDaemon
	}
	data, err := durable.ReadFile(full, limit)
	if errors.Is(err, durable.ErrTooLarge) && path == daemonPath {
		return found{}, daemonInvalid(fmt.Errorf("it has more than %d bytes", limit))
	}
	if err != nil {
		return found{}, looking(err, full)
	}
	f := found{exists: true, data: data, mode: info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky), uid: -1, gid: -1}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(s.Uid), int(s.Gid)
	}
	return f, nil
}

func looking(err error, full string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fault.Wrap(err, fault.PermissionDenied, full+" may not be read", "run the command as root")
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return conflict(filepath.Dir(full), "not a directory")
	}
	return fmt.Errorf("look at %s: %w", full, err)
}

func conflict(path, is string) error {
	return fault.New(fault.SetupConflict, fmt.Sprintf("%s is %s", path, is), "move it away and run setup again; nothing was changed")
}

// parents are the directories above path that are not there, the outermost first.
func (o Options) parents(path string) ([]string, error) {
	var missing []string
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		full, err := o.at(dir)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(full)
		switch {
		case err == nil && !info.IsDir():
			return nil, conflict(full, "not a directory")
		case err == nil:
			return missing, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, looking(err, full)
		}
		missing = append([]string{dir}, missing...)
	}
	return missing, nil
}

// put writes a file as a whole, and the directories it needs.
func (o Options) put(path string, f found) error {
	full, err := o.at(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil { //nolint:gosec // what is in it is for everybody of the host
		return err
	}
	return durable.WriteFileAs(full, f.data, f.mode, f.uid, f.gid)
}

// remove removes one file, or a directory that is empty; that it is gone already is as good.
func (o Options) remove(path string) error {
	full, err := o.at(path)
	if err != nil {
		return err
	}
	err = os.Remove(full)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return err
}

// isText says whether a difference can be shown.
func isText(data []byte) bool { return len(data) < 64<<10 && !strings.ContainsRune(string(data), 0) }
