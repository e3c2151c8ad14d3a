package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"taskrole/internal/fault"
)

// NewLogger makes the only logger of the process: text on a terminal, JSON otherwise, without the time in the journal. The fault is
// usage if there is no such level.
func NewLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fault.Wrap(err, fault.Usage, fmt.Sprintf("unknown log level %q", level), "use debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: l}
	f, ok := w.(*os.File)
	if ok && isTerminal(f) {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	if ok && isJournal(f, os.Getenv("JOURNAL_STREAM")) {
		options.ReplaceAttr = withoutTime
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}

// isTerminal also takes /dev/null for one: how nobody reads it does not matter.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// isJournal says whether f is the connection to systemd's journal, which notes the time itself: stream is the value
// of JOURNAL_STREAM, device and inode of that connection (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	info, err := f.Stat()
	if stream == "" || err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
