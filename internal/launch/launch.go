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
	"path/filepath"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/control"
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
	if err := known(ctx, o, cfg, err); err != nil {
		return err
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
		fmt.Fprintln(o.Stderr, "taskrole: note: by label the role comes some milliseconds after the container's first process, "+
			"whose first request may get the host's role or none; register the runtime or use CDI to have no such race")
	}
}

// socketOf and cdiDir are the usual ones where the configuration cannot be read: an agent may run all the same.
func socketOf(cfg *config.Config) string {
	if cfg == nil {
		return config.DefaultSocket
	}
	return cfg.Socket
}

func cdiDir(cfg *config.Config) string {
	if cfg == nil {
		return config.DefaultCDIDir
	}
	return cfg.CDI.Dir
}

// known makes sure that the agent is there and knows the role. Who is not root cannot ask it; then the configuration
// is asked, if he may read that, and else the agent says so itself when the container starts.
func known(ctx context.Context, o Options, cfg *config.Config, cfgErr error) error {
	socket := socketOf(cfg)
	roles, err := control.Roles(ctx, socket)
	switch code := fault.CodeOf(err); {
	case err == nil:
		return knownTo(roles, socket, o.Role)
	case code == fault.PermissionDenied && cfg != nil:
		_, err := cfg.Role(o.Role)
		return err
	case code == fault.PermissionDenied:
		return nil
	case code == fault.AgentUnreachable && cfg == nil:
		return fault.Wrap(cfgErr, fault.AgentUnreachable, fmt.Sprintf("no agent answers at %s, and %s cannot be used", socket, o.ConfigPath),
			fmt.Sprintf(`write it ("taskrole config check %s" says what is wrong), and start the agent`, o.ConfigPath))
	}
	return err
}

// knownTo looks for the role among the agent's, with the words of the configuration, which offer the nearest names.
func knownTo(roles []control.Role, socket, name string) error {
	c := config.Config{Path: "the agent at " + filepath.Clean(socket)}
	for _, r := range roles {
		c.Roles = append(c.Roles, config.Role{Name: r.Name})
	}
	_, err := c.Role(name)
	return err
}
