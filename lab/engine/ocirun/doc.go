// Package ocirun is the smallest OCI runtime the lab can do with: create, start, state, kill and delete with runc's
// command line, plain Linux namespaces, and the createRuntime hooks.
//
// It exists so that the demo on a machine without any container engine goes through the product's real way in: the
// shim edits a bundle and calls a runtime, the runtime runs the hook. It is no security boundary and refuses to be a
// general runtime: it does not know user namespaces, seccomp, capabilities, terminals or resource limits, and fails
// where a bundle asks for a terminal or a namespace it cannot make.
//
// It is apart from lab/engine, which drives it from outside as containerd drives runc, because it runs as a process
// of its own (Name) and again inside the container it makes (the init verb).
package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Name is the name under which the lab's program is this runtime: a symlink of that name to it.
const Name = "taskrole-lab-runc"

// initVerb makes the program the first process of a container. It is for create alone.
const initVerb = "container-init"

// Command line errors end with runc's own status for everything that went wrong.
const exitError = 1

// options are runc's global ones, as far as we know them.
type options struct {
	root string // where the state of containers is kept
	log  string // where errors go as JSON, for the engine
}

// Main is the whole program: args are the words after the program's name. It returns the exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == initVerb {
		return initMain(stderr)
	}
	var o options
	if err := dispatch(ctx, &o, args, stdout); err != nil {
		complain(stderr, err)
		o.report(err)
		return exitError
	}
	return 0
}

// complain tells a person; an engine reads report.
func complain(stderr io.Writer, err error) {
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", Name, err) // there is nobody else to tell
}

// report writes err as runc does to the file of --log: the engine reads the last line with level error.
func (o *options) report(err error) {
	if o.log == "" {
		return
	}
	f, e := os.OpenFile(o.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if e != nil {
		return // the error is on stderr as well
	}
	defer func() { _ = f.Close() }() // nothing is left to do with an error here
	_ = json.NewEncoder(f).Encode(map[string]string{
		"level": "error", "msg": err.Error(), "time": time.Now().UTC().Format(time.RFC3339),
	})
}

func dispatch(ctx context.Context, o *options, args []string, stdout io.Writer) error {
	f := newFlags("")
	f.StringVar(&o.root, "root", "/run/"+Name, "")
	f.StringVar(&o.log, "log", "", "")
	f.String("log-format", "json", "")
	f.Bool("systemd-cgroup", false, "")
	f.Bool("debug", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("expected create, start, state, kill or delete")
	}
	verb, rest := f.Arg(0), f.Args()[1:]
	v := newFlags(verb)
	bundle := v.String("bundle", ".", "")
	v.StringVar(bundle, "b", ".", "")
	pidFile := v.String("pid-file", "", "")
	force := v.Bool("force", false, "")
	v.BoolVar(force, "f", false, "")
	v.String("console-socket", "", "")
	v.Bool("no-pivot", false, "")
	if err := v.Parse(rest); err != nil {
		return err
	}
	if v.NArg() == 0 || (v.NArg() > 1 && verb != "kill") || v.NArg() > 2 {
		return fmt.Errorf("%s: expected the id of one container", verb)
	}
	s, err := openStore(o.root, v.Arg(0))
	if err != nil {
		return err
	}
	switch verb {
	case "create":
		return create(ctx, s, *bundle, *pidFile)
	case "start":
		return s.start()
	case "state":
		return s.print(stdout)
	case "kill":
		return s.kill(v.Arg(1))
	case "delete":
		return s.delete(ctx, *force)
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
}

func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the error says it, and stderr is the container's
	return f
}

// specLimit bounds the size of a config.json.
const specLimit = 4 << 20

// readFile reads at most specLimit bytes and refuses what is larger.
func readFile(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(f, specLimit+1))
	if err == nil && len(b) > specLimit {
		err = fmt.Errorf("%s has more than %d bytes", name, specLimit)
	}
	return b, err
}
