// Package setup puts taskrole on a host, and takes it away again: its programs, a systemd unit, Docker's runtime entry,
// the CDI directory, completions and manual pages.
//
// Everything is planned first, and the plan is what a person reads: each file, what would change in it, each command.
// Carrying it out changes the files of the plan and nothing else, each as a whole, and remembers what was there before
// under /var/lib/taskrole/setup, so that the way back leads to the same bytes. It refuses to write through symbolic
// links, to replace what it does not know, to guess at a daemon.json that it cannot read, and to restart or reload
// Docker unasked. With another root it touches that tree alone and runs no command.
//
// It is apart from the agent because it writes where the agent never may.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"taskrole/internal/fault"
)

// Options say what to set up. Root, BinDir and Programs must be set.
type Options struct {
	Root          string // the tree to change
	Host          bool   // it is this host's own, where things may run: Root is / but in tests
	BinDir        string // where the programs go, as seen in Root
	Programs      string // directory with taskrole, taskrole-agent and taskrole-runtime, which are copied
	CDI           bool   // switch CDI on in Docker, for versions 25 to 28.1
	RestartDocker bool   // let Docker take the change
	Extra         []File // completions and manual pages; paths are relative to the directory BinDir is in
	// ByRuntime names the containers that the runtime of this name starts. Nil where there is no engine to be asked.
	ByRuntime func(ctx context.Context, runtime string) ([]string, error)
	// Command runs one command. Nil runs none, and the plan says so: for another root, or without systemd.
	Command func(ctx context.Context, words ...string) error
	// Clear removes what the agent leaves in the host when it is gone for good. May be nil.
	Clear func(ctx context.Context) error
}

// File is one more file to install.
type File struct {
	Path string
	Data []byte
}

// Step is one thing to do, or the word that there is nothing to do.
type Step struct {
	Verb string // create, change, unchanged, remove, restore, keep, run
	What string // a path, or a command
	Diff string // of a text that changes
	Note string // one sentence, or empty
	do   func(context.Context) error
}

// Plan is what would be done, in this order.
type Plan struct {
	Steps []Step
	Notes []string // what a person should know or do afterwards
}

// Changes says whether there is anything to do.
func (p *Plan) Changes() bool {
	for _, s := range p.Steps {
		if s.do != nil {
			return true
		}
	}
	return false
}

func (p *Plan) add(s Step) { p.Steps = append(p.Steps, s) }

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// Write shows the plan.
func (p *Plan) Write(w io.Writer) error {
	var b strings.Builder
	for _, s := range p.Steps {
		if s.What == "" {
			continue // bookkeeping
		}
		fmt.Fprintf(&b, "%-9s  %s", s.Verb, s.What)
		if s.Note != "" {
			fmt.Fprintf(&b, "  (%s)", s.Note)
		}
		b.WriteString("\n")
		for line := range strings.Lines(s.Diff) {
			b.WriteString("           | " + strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Apply does what the plan says, and stops at the first thing that cannot be done. To plan and apply again goes on
// from there.
func (p *Plan) Apply(ctx context.Context) error {
	for _, s := range p.Steps {
		if s.do == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted before %s %s: %w", s.Verb, s.What, err)
		}
		if err := s.do(ctx); err != nil {
			if f, ok := errors.AsType[*fault.Error](err); ok {
				return f
			}
			if errors.Is(err, os.ErrPermission) {
				return fault.Wrap(err, fault.PermissionDenied, fmt.Sprintf("%s %s: permission denied", s.Verb, s.What), "run the command as root")
			}
			return fmt.Errorf("%s %s: %w", s.Verb, s.What, err)
		}
	}
	return nil
}

// prefix is the directory that share is in.
func (o Options) prefix() string {
	if filepath.Base(o.BinDir) == "bin" {
		return filepath.Dir(o.BinDir)
	}
	return "/usr/local"
}

// command plans one, where commands are run at all.
func (o Options) command(p *Plan, note string, words ...string) {
	if o.Command == nil {
		return
	}
	p.add(Step{Verb: "run", What: strings.Join(words, " "), Note: note, do: func(ctx context.Context) error {
		return o.Command(ctx, words...)
	}})
}
