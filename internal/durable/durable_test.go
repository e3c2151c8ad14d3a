package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/durable"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return s
}

func TestWriteFileReplacesAndLeavesNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, data := range []string{"one", "", "three"} {
		if err := durable.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
		if got := read(t, path); got != data {
			t.Errorf("content = %q, want %q", got, data)
		}
	}
	if d := cmp.Diff([]string{"f"}, names(t, dir)); d != "" {
		t.Errorf("directory (-want +got):\n%s", d)
	}
}

func TestWriteFileTakesARelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := durable.WriteFile("f", []byte("x"), 0o600); err != nil || read(t, "f") != "x" {
		t.Errorf("WriteFile: %v", err)
	}
}

func TestWriteFileGivesExactlyThePermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "f")
	for _, perm := range []fs.FileMode{0o600, 0o644, 0o666} {
		if err := durable.WriteFile(path, nil, perm); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != perm {
			t.Errorf("mode = %v, %v, want %v", info.Mode(), err, perm)
		}
	}
}

func TestWriteFileReplacesALinkAndNotWhatItPointsTo(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "f")
	if err := os.WriteFile(victim, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if read(t, victim) != "old" || read(t, path) != "new" {
		t.Errorf("victim %q, file %q, want old and new", read(t, victim), read(t, path))
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is still there: %v, %v", info.Mode(), err)
	}
}

func TestWriteFileLeavesAReaderItsOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := durable.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := durable.WriteFile(path, []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, _ := f.Read(b); string(b[:n]) != "old" {
		t.Errorf("the open file reads %q, want old", b[:n])
	}
}

func TestWriteFileThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(full, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{full, filepath.Join(dir, "absent", "f"), dir + "/", ""} {
		if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
			t.Errorf("WriteFile(%q) succeeded", path)
		}
	}
	if d := cmp.Diff([]string{"d"}, names(t, dir)); d != "" {
		t.Errorf("directory (-want +got):\n%s", d)
	}
}

func TestReadersSeeOneOfTheContents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	contents := []string{strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<15)}
	var wg sync.WaitGroup
	defer wg.Wait()
	if err := durable.WriteFile(path, []byte(contents[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range contents {
		wg.Go(func() {
			for range 20 {
				if err := durable.WriteFile(path, []byte(c), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		b, err := durable.ReadFile(path, 1<<16)
		if err != nil || (string(b) != contents[0] && string(b) != contents[1]) {
			t.Fatalf("read %d bytes that nobody wrote: %v", len(b), err)
		}
	}
}

func TestReadFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := durable.ReadFile(path, 5); err != nil || string(b) != "12345" {
		t.Errorf("ReadFile = %q, %v, want all", b, err)
	}
	if b, err := durable.ReadFile(path, 4); !errors.Is(err, durable.ErrTooLarge) || b != nil {
		t.Errorf("ReadFile = %q, %v, want ErrTooLarge", b, err)
	}
}

func TestReadFileRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, os.DevNull} {
		if b, err := durable.ReadFile(path, 10); !errors.Is(err, durable.ErrNotRegular) {
			t.Errorf("ReadFile(%s) = %q, %v, want ErrNotRegular", path, b, err)
		}
	}
	if _, err := durable.ReadFile(filepath.Join(dir, "absent"), 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of nothing: %v, want fs.ErrNotExist", err)
	}
}
