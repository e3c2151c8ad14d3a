package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/fault"
)

func newAgent(o Options) *cobra.Command {
	var configPath, level string
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve roles to the containers of this host",
		Long: `Runs the agent in the foreground until SIGTERM or SIGINT. It needs root. SIGHUP makes
it read the configuration again; if the new one has problems it keeps the old one.
Logs go to stderr: text on a terminal, JSON otherwise.`,
		Example: `  taskrole agent
  taskrole agent --config ./config.yaml --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			logger, err := newLogger(o.Stderr, level)
			if err != nil {
				return err
			}
			return runAgent(c.Context(), o, configPath, logger)
		},
	}
	c.Flags().StringVar(&configPath, "config", DefaultConfig, "configuration `file`")
	c.Flags().StringVar(&level, "log-level", "info", "what is logged: debug, info, warn or error")
	return c
}

func runAgent(ctx context.Context, o Options, configPath string, logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for the clean-up
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	err := o.Agent(ctx, configPath, logger, reload)
	if err == nil {
		return nil
	}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return configFault(o.Stderr, configPath, problems)
	}
	f := fault.As(err)
	if f.Err != nil { // the fault does not show its cause
		logger.ErrorContext(ctx, "agent stopped", slog.String("code", string(f.Code)), slog.String("error", f.Err.Error()))
	}
	return f
}

// newLogger makes the only logger of the process.
func newLogger(w io.Writer, level string) (*slog.Logger, error) {
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
