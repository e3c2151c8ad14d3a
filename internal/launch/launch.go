// Package launch starts a container with a role: "taskrole run".
//
// It finds the best way in that the engine has, puts the engine's own words for it in front of the person's arguments,
// and becomes the engine's command line, so that exit status, signals, terminal and input are docker's. It refuses
// arguments that say something else than the role, and starts nothing before it knows that engine, role and agent are
// there. Whether the container may have the role is not its question: the agent asks that when the container starts.
package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/fault"
)

// patience is for everything before the engine's command line takes over.
const patience = 30 * time.Second

// Options say what to run.
type Options struct {
	Engine     string // Docker or Podman
	Role       string
	Args       []string // of docker run
	ConfigPath string
	Env        []string // of the caller
	Verbose    bool     // say what is done
	Stderr     *os.File
	UID        int // effective one of the caller
	// Companion are the words by which this program calls Keep.
	Companion []string
	// Exec becomes the engine's command line: syscall.Exec.
	Exec func(path string, argv, env []string) error
}

// Run becomes the engine's command line, and returns only if it cannot.
func Run(ctx context.Context, o Options) error {
	path, err := program(o.Engine)
	if err != nil {
		return err
	}
	flags := flagsOf(o.Args)
	if err := contradiction(flags, o.Role, way{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg, err := config.Load(o.ConfigPath)
	if _, ok := errors.AsType[config.Problems](err); err != nil && !ok {
		return err
	}
	m, err := meet(ctx, o, cfg, err)
	if err != nil {
		return err
	}
	if m.missing && comesBack(flags) {
		return fault.New(fault.ArgumentsContradict, "--restart needs an agent that stays, and none runs: this one ends with the container",
			"start the agent (systemctl start taskrole), or leave --restart out")
	}
	f, err := ask(ctx, o.Engine, path, o.Env)
	if err != nil {
		return err
	}
	f.labels = f.labels && (cfg == nil || cfg.Late)
	w, err := choose(f, o.Role, cdiDir(cfg))
	if err != nil {
		return err
	}
	if err := contradiction(flags, o.Role, w); err != nil {
		return err
	}
	if err := m.accompany(ctx, o, socketOf(cfg)); err != nil {
		return err
	}
	o.explain(w)
	argv := append(append([]string{o.Engine, "run"}, w.args...), o.Args...)
	return fault.Wrap(o.Exec(path, argv, o.Env), fault.EngineMissing, fmt.Sprintf("%s cannot be run", path), "")
}

func (o Options) explain(w way) {
	if o.Stderr == nil {
		return
	}
	if o.Verbose {
		fmt.Fprintf(o.Stderr, "taskrole: way in: %s (%s): %s\n", w.name, w.args[0], w.why)
	}
	if w.name == wayLabel {
		fmt.Fprintln(o.Stderr, "taskrole: note: by label the role comes mostly before the container's program starts, but else some milliseconds later: "+
			"then its first request may get the host's role or none; taskrole setup prepares a way in without that race")
	}
}
