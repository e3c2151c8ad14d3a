package facts

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errLarge      = errors.New("it is too large")
	errNotRegular = errors.New("it is not a regular file")
	errSlow       = errors.New("it took too long")
	errMany       = errors.New("there are too many files")
)

// openIn opens what is at a path below a root for reading, if it is of the kind that is wanted: a regular file or a
// directory. No link leads out of the root. What is there is looked at before it is opened for reading, since opening a
// device may do something, and a pipe would hold us up.
func openIn(root *os.File, name string, directory bool) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path.Join("/", name), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	there := os.NewFile(uintptr(fd), name)
	defer func() { _ = there.Close() }() // only looked at
	st, err := there.Stat()
	if err != nil {
		return nil, err
	}
	if directory && !st.IsDir() {
		return nil, unix.ENOTDIR
	}
	if !directory && !st.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// within runs f, and gives it up when it takes too long: a file may be on a file system whose server does not answer, and
// a process can hold up whoever reads its memory. What is given up must not change anything that others read.
func within[T any](ctx context.Context, limit time.Duration, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var none T
	select {
	case a := <-done:
		return a.value, a.err
	case <-timer.C:
		return none, errSlow
	case <-ctx.Done():
		return none, errSlow
	}
}

// held is within, for what uses the process's descriptors.
func held[T any](ctx context.Context, p *Process, limit time.Duration, f func() (T, error)) (T, error) {
	v, err := within(ctx, limit, f)
	if errors.Is(err, errSlow) {
		p.held.Store(true)
	}
	return v, err
}

// tree is the process's root, of which only so much is looked at.
type tree struct {
	ctx   context.Context //nolint:containedctx // the look at the tree is one call
	root  *os.File
	opens int   // that are left
	names int   // in directories, likewise
	bytes int64 // likewise
	cut   bool  // something was left out
}

// Bounds of the search for SDKs. The largest tree of the tests needs a fiftieth of them.
const (
	maxOpens = 5000
	maxNames = 200_000
	maxBytes = 256 << 20
)

func (t *tree) spend() error {
	if t.opens--; t.opens < 0 || t.ctx.Err() != nil {
		t.cut = true
		return errMany
	}
	return nil
}

// list are the names in a directory.
func (t *tree) list(name string) []string {
	if t.spend() != nil {
		return nil
	}
	dir, err := openIn(t.root, name, true)
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }() // only read
	names, err := dir.Readdirnames(max(t.names, 1))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	if t.names -= len(names); t.names <= 0 {
		t.cut = true
	}
	return names
}

// open opens a regular file, of whose bytes no more than the rest can be read.
func (t *tree) open(name string) (*bounded, error) {
	if err := t.spend(); err != nil {
		return nil, err
	}
	f, err := openIn(t.root, name, false)
	if err != nil {
		return nil, err
	}
	return &bounded{File: f, tree: t}, nil
}

// read reads a small file, or nothing.
func (t *tree) read(name string) []byte {
	f, err := t.open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // only read
	b, err := readFrom(f)
	if err != nil {
		return nil
	}
	return b
}

// bounded is a file that ends when the tree's bytes are used up.
type bounded struct {
	*os.File

	tree *tree
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) { return b.take(b.File.Read(p)) }

// ReadAt implements io.ReaderAt.
func (b *bounded) ReadAt(p []byte, off int64) (int, error) { return b.take(b.File.ReadAt(p, off)) }

func (b *bounded) take(n int, err error) (int, error) {
	if b.tree.bytes -= int64(n); b.tree.bytes < 0 || b.tree.ctx.Err() != nil {
		b.tree.cut = true
		return n, errLarge
	}
	return n, err
}

// readFrom reads a small file.
func readFrom(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, errLarge
	}
	return b, err
}
