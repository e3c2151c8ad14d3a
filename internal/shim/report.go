package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

// maxLine is how much of a sentence is shown.
const maxLine = 2048

// report says why the container does not start. Without the entry in the log file the user of Docker reads
// "exit status 1" and nothing else.
func report(o Options, c command, f *fault.Error) {
	line := "taskrole: " + oneLine(f.Error())
	_, _ = fmt.Fprintln(o.Stderr, line) // there is nowhere else to say it
	if c.logPath == "" {
		return
	}
	if err := appendLog(o, c, line); err != nil {
		_, _ = fmt.Fprintln(o.Stderr, "taskrole: the log file cannot be written: "+oneLine(err.Error()))
	}
}

// appendLog adds one entry in the form of runc's own log (logrus), in which containerd looks for the last line with
// level error.
func appendLog(o Options, c command, line string) (err error) {
	path := c.logPath
	if !filepath.IsAbs(path) {
		path = filepath.Join(o.Dir, path)
	}
	entry, err := formatEntry(c.logFormat, line, o.Now())
	if err != nil {
		return err
	}
	// The file is the engine's, which may have opened it before. A FIFO without a reader must not stop us.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.WriteString(f, entry)
	return err
}

func formatEntry(format, line string, now time.Time) (string, error) {
	at := now.Format(time.RFC3339)
	if format != "json" {
		return fmt.Sprintf("time=%q level=error msg=%q\n", at, line), nil
	}
	b, err := json.Marshal(struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
		Time  string `json:"time"`
	}{"error", line, at})
	return string(b) + "\n", err
}

// oneLine makes one line of bounded length out of s, whatever a bundle put into it.
func oneLine(s string) string {
	s = strings.Map(printable, strings.Join(strings.Fields(s), " "))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

// printable keeps what a terminal shows, and nothing that it obeys.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
