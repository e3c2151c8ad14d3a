// Package companion runs a second process of this program beside a command that replaces the first.
//
// A command that is started with a role needs somebody who renews its credentials, and must itself be what its parent
// started: with the exit status, the signals, the terminal and the process id of nothing but the command. So the program
// starts a companion, waits until that is ready, and becomes the command (execve). A parent that stays and passes
// signals on was rejected: what the terminal sends reaches the whole process group, so the command would get it
// twice, and Go cannot see who sent a signal.
//
// The companion is nobody's child, or a command that waits for its children would wait for it, and is in a session of its
// own, which no terminal can interrupt. It refuses to outlive what it is for: whoever serves in it is told when the
// principal, which is the process that started it and then the command, has ended.
package companion

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"taskrole/internal/attest"
	"taskrole/internal/fault"
	"taskrole/internal/readiness"
)

// The descriptors of a companion, after the standard three.
const (
	reportFD = 3 + iota
	principalFD
)

// maxReport bounds what a companion may say of itself.
const maxReport = 64 << 10

// program is this program, also if its file was replaced meanwhile.
const program = "/proc/self/exe"

// report is the one thing a companion says.
type report struct {
	Ready json.RawMessage `json:"ready,omitempty"`
	Code  fault.Code      `json:"code,omitempty"`
	What  string          `json:"what,omitempty"`
	Hint  string          `json:"hint,omitempty"`
}

// Start starts a companion of the calling process and waits until it is ready; then its word is in ready. args are the
// words with which this program calls Detach, whose own are those with which it calls Attend.
// The companion logs to log, or nowhere if that is nil. The error is a *fault.Error, the companion's own where it has
// one. When ctx ends first there is no companion left, as soon as the caller has ended.
func Start(ctx context.Context, log *os.File, ready any, args ...string) error {
	self, err := attest.OpenProcess(os.Getpid())
	if err != nil {
		return fault.As(err)
	}
	defer self.Close() //nolint:errcheck // only handed over
	r, w, err := os.Pipe()
	if err != nil {
		return fault.As(fmt.Errorf("make a pipe: %w", err))
	}
	defer r.Close()                                   //nolint:errcheck // only read from
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // this program itself
	cmd.Dir, cmd.Env = "/", environment(os.Environ())
	cmd.ExtraFiles = []*os.File{w, self.File()}
	if log != nil {
		cmd.Stderr = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Run()
	_ = w.Close() // so that the end of the companion ends the pipe
	if err != nil {
		return fault.Wrap(err, fault.Internal, "a second process of taskrole could not be started: "+err.Error(), "")
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return receive(r, ready)
}

// environment is the companion's: what a service manager gave to the caller, and so to the command, is not for it.
func environment(caller []string) []string {
	return slices.DeleteFunc(caller, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM"}, name)
	})
}

// receive reads a report.
func receive(r io.Reader, ready any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxReport))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(err, fault.CredentialsNotReady, "the credentials were not there in time", "try again in a moment")
	case err != nil:
		return fault.As(fmt.Errorf("read from the companion: %w", err))
	}
	var said report
	if err := json.Unmarshal(b, &said); err != nil {
		return fault.Wrap(err, fault.Internal, "the second process of taskrole ended without a word", "try again with -v; if that does not explain it, report it")
	}
	if said.Code != "" {
		return fault.New(said.Code, said.What, said.Hint)
	}
	if err := json.Unmarshal(said.Ready, ready); err != nil {
		return fault.As(fmt.Errorf("read the companion's report: %w", err))
	}
	return nil
}

// Detach starts the companion proper and returns: when the caller then ends, the companion has no parent of ours.
func Detach(args ...string) error {
	argv := append([]string{os.Args[0]}, args...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fault.As(err)
	}
	defer null.Close()                                     //nolint:errcheck // nothing was written
	p, err := os.StartProcess(program, argv, &os.ProcAttr{ //nolint:gosec // this program itself
		Files: []*os.File{null, null, os.Stderr, os.NewFile(reportFD, "report"), os.NewFile(principalFD, "principal")},
	})
	if err != nil {
		return fault.As(fmt.Errorf("start the companion: %w", err))
	}
	return p.Release()
}

// Attendance is the companion's side of Start.
type Attendance struct {
	report    *os.File
	principal *attest.Process
}

// Attend takes over what Start handed down.
func Attend() (*Attendance, error) {
	syscall.CloseOnExec(reportFD)
	syscall.CloseOnExec(principalFD)
	p, err := attest.ProcessFromFD(os.NewFile(principalFD, "principal"))
	if err != nil {
		return nil, fault.Wrap(err, fault.Usage, "this is not for people: a companion is started by taskrole itself", `see "taskrole --help"`)
	}
	return &Attendance{report: os.NewFile(reportFD, "report"), principal: p}, nil
}

// Watch returns a context that ends with the principal, and a function that ends the watch.
func (a *Attendance) Watch(ctx context.Context) (context.Context, context.CancelFunc, error) {
	set, err := readiness.NewSet()
	if err != nil {
		return nil, nil, fault.As(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := func() {
		cancel()
		_ = set.Close() // nothing was written
	}
	var w *readiness.Watch
	armed := make(chan struct{})
	w, err = set.Watch(a.principal.File(), func() {
		<-armed
		// Some kernels wake the watchers of a process that becomes another program from a thread that is not its first.
		if !a.principal.Alive() || w.Again() != nil {
			cancel()
		}
	})
	close(armed)
	if err != nil {
		stop()
		return nil, nil, fault.As(err)
	}
	return ctx, stop, nil
}

// Ready tells Start that the companion is, and what its caller needs.
func (a *Attendance) Ready(what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return fault.As(fmt.Errorf("make the report: %w", err))
	}
	return a.say(report{Ready: b})
}

// Hush ends the log. A companion that outlives the command must not hold its stderr open: a pipe would not end.
func (a *Attendance) Hush() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fault.As(err)
	}
	defer null.Close() //nolint:errcheck // nothing was written
	if err := syscall.Dup3(int(null.Fd()), int(os.Stderr.Fd()), 0); err != nil {
		return fault.As(fmt.Errorf("close the log: %w", err))
	}
	return nil
}

// Failed tells Start why there will be no companion.
func (a *Attendance) Failed(why error) error {
	f := fault.As(why)
	return a.say(report{Code: f.Code, What: f.What, Hint: f.Hint})
}

func (a *Attendance) say(r report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fault.As(fmt.Errorf("make the report: %w", err))
	}
	_, err = io.Copy(a.report, bytes.NewReader(b))
	if err := errors.Join(err, a.report.Close()); err != nil {
		return fault.As(fmt.Errorf("report: %w", err)) // the principal has ended
	}
	return nil
}
