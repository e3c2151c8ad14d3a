package daemon_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/daemon"
)

func TestLogInTheJournalHasNoTimeOfItsOwn(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "journal"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &s); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", s.Dev, s.Ino))
	agent := func(ctx context.Context, _ string, logger *slog.Logger, _ <-chan os.Signal) error {
		logger.WarnContext(ctx, "here")
		return nil
	}
	daemon.Main(t.Context(), nil, f, agent)
	b, err := os.ReadFile(f.Name())
	if err != nil || !strings.HasPrefix(string(b), `{"level":"WARN","msg":"here"`) {
		t.Errorf("log = %q, %v, want JSON without a time", b, err)
	}
}
