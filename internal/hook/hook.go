// Package hook is the createRuntime hook of OCI runtimes: it hands the container that is being made to the agent,
// and makes the start fail with one sentence if the agent does not give it its role.
//
// The runtime runs it after the namespaces exist and before the container's program starts, with the container's
// state on stdin. The hook decides nothing and changes nothing: it turns the process id in the state into a pidfd
// and a network namespace, checks that both are of one process that still lives, and passes them on. It refuses
// state that is too long, is not the JSON of the runtime specification, or names a process that is not there.
//
// It is in the path of every container start, so it links none of what the agent needs.
package hook

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// DefaultTimeout is how long a container's start waits for the agent. The first STS call is within it.
const DefaultTimeout = 15 * time.Second

// maxTimeout keeps a typing mistake from hanging an engine.
const maxTimeout = 10 * time.Minute

// maxLine is how much of a sentence is shown: engines repeat it inside sentences of their own.
const maxLine = 1024

type options struct {
	role    string
	socket  string
	way     container.Way
	timeout time.Duration
}

// Run is the command "taskrole-runtime hook": args are what follows that word. It reads the state from stdin,
// returns the exit code, and writes to stderr only if that is not 0: one line, "taskrole: WHAT: HINT [CODE]".
func Run(ctx context.Context, stdin io.Reader, args []string, stderr io.Writer) int {
	o, err := parseArgs(args)
	if err == nil {
		err = attach(ctx, stdin, o)
	}
	if err == nil {
		return fault.ExitOK
	}
	f := fault.As(err)
	_, _ = fmt.Fprintln(stderr, "taskrole: "+oneLine(f.Error())) // there is nowhere else to say it
	return f.Exit()
}

func parseArgs(args []string) (options, error) {
	var o options
	var way string
	flags := flag.NewFlagSet("hook", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	flags.StringVar(&o.role, "role", "", "")
	flags.StringVar(&o.socket, "socket", control.DefaultSocket, "")
	flags.StringVar(&way, "way", string(container.WayCDI), "")
	flags.DurationVar(&o.timeout, "timeout", DefaultTimeout, "")
	err := flags.Parse(args)
	o.way = container.Way(way)
	switch {
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", clip(flags.Arg(0)))
	case o.role == "":
		err = errors.New("no role named")
	case o.way != container.WayCDI && o.way != container.WayShim:
		err = fmt.Errorf("unknown way in %q", clip(way))
	case o.timeout <= 0 || o.timeout > maxTimeout:
		err = fmt.Errorf("timeout %s is not between 0 and %s", o.timeout, maxTimeout)
	}
	if err != nil {
		return o, fault.Wrap(err, fault.Usage, "wrong hook command line: "+clip(err.Error()),
			"expected taskrole-runtime hook --role NAME [--socket PATH] [--way cdi|shim] [--timeout 15s]")
	}
	return o, nil
}

// attach does it all within the time-out, reading the state included.
func attach(ctx context.Context, stdin io.Reader, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	s, err := readState(ctx, stdin)
	if err != nil {
		return err
	}
	p, err := openProcess(s)
	if err != nil {
		return err
	}
	defer p.close()
	_, err = control.Attach(ctx, o.socket, control.AttachRequest{
		Role: o.role, ID: s.ID, Bundle: s.Bundle, Way: o.way, Confined: confined(s.Bundle),
	}, p.pidfd, p.netns)
	return err
}

// readState reads stdin, and does not wait for ever for its end. A read that hangs cannot be interrupted; it is left
// behind, and the process, which is about to exit, with it.
func readState(ctx context.Context, stdin io.Reader) (state, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(stdin, maxState+1))
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return state{}, invalid(r.err, "the container's state cannot be read from stdin")
		}
		return parseState(r.data)
	case <-ctx.Done():
		return state{}, invalid(ctx.Err(), "the container's state does not come to an end on stdin")
	}
}

// process is what the agent gets of a container.
type process struct{ pidfd, netns *os.File }

func (p process) close() {
	_ = p.netns.Close() // the agent has its own
	_ = p.pidfd.Close()
}

// oneLine makes one line of bounded length out of s, whatever STS or a configuration put into it.
func oneLine(s string) string {
	s = strings.Map(printable, strings.Join(strings.Fields(s), " "))
	if len(s) > maxLine {
		code := s[strings.LastIndexByte(s, ' ')+1:]
		s = strings.ToValidUTF8(s[:maxLine-len(code)], "") + "… " + code
	}
	return s
}

// clip shortens somebody else's text before it becomes part of a sentence.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func invalid(cause error, what string) error {
	return fault.Wrap(cause, fault.RequestInvalid, what,
		"only an OCI runtime runs this hook; if one did, update it or report this")
}

// printable keeps what a terminal shows, and nothing that it obeys.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}
