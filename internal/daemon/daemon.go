// Package daemon is the program around the agent: its few flags, its logger, its signals, and what a person reads when it ends.
//
// It is apart from the command line, so that the program that holds everybody's credentials as root contains nothing of the
// other commands: no code that reads files of containers, nothing that installs, no manual. All of that would lie in its
// memory too, 2 MiB of it. It refuses to be configured by more than a file's name and how much is logged.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"taskrole/internal/config"
	"taskrole/internal/fault"
)

// Program is the agent's program, which lies beside taskrole.
const Program = "taskrole-agent"

// The defaults of the flags.
const (
	DefaultConfig = "/etc/taskrole/config.yaml"
	DefaultLevel  = "info"
)

// Agent serves until ctx ends. Each value of reload makes it read the configuration again.
type Agent func(ctx context.Context, configPath string, logger *slog.Logger, reload <-chan os.Signal) error

// Args are the words for Program that say so.
func Args(configPath, level string) []string {
	return []string{Program, "--config=" + configPath, "--log-level=" + level}
}

// Main is the whole program: args are the words after its name. It returns the exit code.
func Main(ctx context.Context, args []string, stderr io.Writer, agent Agent) int {
	flags := flag.NewFlagSet(Program, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is said in our form
	path := flags.String("config", DefaultConfig, "")
	level := flags.String("log-level", DefaultLevel, "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unknown word %q", flags.Arg(0))
	}
	if err != nil {
		f := fault.Wrap(err, fault.Usage, err.Error(), `"taskrole agent --help" says what there is`)
		Show(stderr, f)
		return f.Exit()
	}
	logger, err := NewLogger(stderr, *level)
	if err == nil {
		err = serve(ctx, *path, logger, stderr, agent)
	}
	if err == nil {
		return fault.ExitOK
	}
	f := fault.As(err)
	Show(stderr, f)
	return f.Exit()
}

// serve runs the agent until SIGTERM or SIGINT.
func serve(ctx context.Context, configPath string, logger *slog.Logger, stderr io.Writer, agent Agent) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for the clean-up
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	err := agent(ctx, configPath, logger, reload)
	if err == nil {
		return nil
	}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return ConfigFault(stderr, configPath, problems)
	}
	f := fault.As(err)
	if f.Err != nil { // the fault does not show its cause
		logger.ErrorContext(ctx, "agent stopped", slog.String("code", string(f.Code)), slog.String("error", f.Err.Error()))
	}
	return f
}

// Show prints a fault for people.
func Show(w io.Writer, f *fault.Error) {
	text := fmt.Sprintf("taskrole: error: %s [%s]\n", f.What, f.Code)
	if f.Hint != "" {
		text += "taskrole: hint: " + strings.ReplaceAll(f.Hint, "\n", "\ntaskrole: hint: ") + "\n"
	}
	_, _ = io.WriteString(w, text) // if stderr is closed there is nowhere left to say so
}

// ConfigFault prints every problem of a configuration file, one a line, and returns the fault that sums them up. An
// error that is not about the file's content is returned as a fault.
func ConfigFault(w io.Writer, path string, err error) error {
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		return fault.As(err)
	}
	if _, err := fmt.Fprintln(w, problems.Error()); err != nil {
		return fault.As(fmt.Errorf("write the problems of %s: %w", path, err))
	}
	count := "1 problem"
	if len(problems) != 1 {
		count = fmt.Sprintf("%d problems", len(problems))
	}
	return fault.Wrap(err, fault.ConfigInvalid, fmt.Sprintf("%s has %s", path, count),
		fmt.Sprintf(`correct the file; "taskrole config check %s" looks again`, path))
}
