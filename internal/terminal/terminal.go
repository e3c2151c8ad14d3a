// Package terminal says whether a person is looking, and how wide their window is.
//
// It is the door to the two ioctls that tell. It refuses to take /dev/null and other character devices for a terminal,
// and draws nothing: what a narrow window shows is decided in package table.
package terminal

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Is says whether f, a writer or a reader, is a terminal.
func Is(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// defaultWidth is for terminals that do not know theirs, such as a serial line.
const defaultWidth = 80

// Width returns how many characters fit on a line of w, and 0 if w is no terminal: then nobody counts. COLUMNS in the
// environment counts more than what the kernel knows.
func Width(w io.Writer, getenv func(string) string) int {
	if !Is(w) {
		return 0
	}
	if n, err := strconv.Atoi(getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	file, ok := w.(*os.File)
	if !ok {
		return defaultWidth
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return defaultWidth
	}
	return int(size.Col)
}

// Height returns how many lines the window of w has, and 0 where nobody knows.
func Height(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}

// Colour says whether w shows colours, and its person wants them (no-color.org).
func Colour(w io.Writer, getenv func(string) string) bool {
	return Is(w) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// UTF8 says whether the environment's locale has characters beyond ASCII.
func UTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} { // the first that is set counts (locale(7))
		if v := getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
