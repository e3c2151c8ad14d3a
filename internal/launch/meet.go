package launch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"taskrole/internal/companion"
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// met is the agent, as far as it can be seen before the container starts.
type met struct {
	missing bool  // there is none, and one can be kept
	held    *lock // where the agent may be a companion, which must not end now; else nil
}

// meet makes sure that the role is known, and that there is an agent or can be one. Who is not root cannot ask an agent;
// then the configuration is asked, if he may read that, and else the agent says so itself when the container starts.
func meet(ctx context.Context, o Options, cfg *config.Config, cfgErr error) (met, error) {
	var m met
	socket := socketOf(cfg)
	if _, err := os.Lstat(lockPath(socket)); err == nil && o.UID == 0 {
		if err := m.hold(ctx, socket); err != nil {
			return met{}, err
		}
	}
	roles, err := control.Roles(ctx, socket)
	switch code := fault.CodeOf(err); {
	case err == nil:
		return m, knownTo(roles, socket, o.Role)
	case code == fault.PermissionDenied && cfg == nil:
		return m, nil
	case code == fault.PermissionDenied:
		_, err := cfg.Role(o.Role)
		return m, err
	case code != fault.AgentUnreachable:
		return met{}, err
	case cfg == nil:
		return met{}, fault.Wrap(cfgErr, fault.AgentUnreachable, fmt.Sprintf("no agent answers at %s, and %s cannot be used", socket, o.ConfigPath),
			fmt.Sprintf(`write it ("taskrole config check %s" says what is wrong), and start the agent`, o.ConfigPath))
	case o.UID != 0:
		return met{}, fault.Wrap(err, fault.AgentUnreachable, fmt.Sprintf("no agent answers at %s, and only root can do without one", socket),
			"start the agent (systemctl start taskrole), or run this as root")
	}
	if _, err := cfg.Role(o.Role); err != nil {
		return met{}, err
	}
	m.missing = true
	return m, nil
}

// hold takes the lock, together with whoever else runs a container.
func (m *met) hold(ctx context.Context, socket string) error {
	l, err := openLock(socket)
	if err != nil {
		return err
	}
	m.held = l
	return l.share(ctx)
}

// accompany starts an agent where there is none, and has the engine's command line keep it.
func (m *met) accompany(ctx context.Context, o Options, socket string) error {
	if m.missing && m.held == nil {
		if err := m.hold(ctx, socket); err != nil {
			return err
		}
	}
	if m.missing {
		var log *os.File
		if o.Verbose {
			log = o.Stderr
			fmt.Fprintln(o.Stderr, "taskrole: no agent runs: one of its own is kept until the last container that taskrole run started has ended")
		}
		if err := companion.Start(ctx, log, new(bool), o.Companion...); err != nil {
			return err
		}
	}
	if m.held != nil {
		return m.held.inherit()
	}
	return nil
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

// knownTo looks for the role among the agent's, with the words of the configuration, which offer the nearest names.
func knownTo(roles []control.Role, socket, name string) error {
	c := config.Config{Path: "the agent at " + filepath.Clean(socket)}
	for _, r := range roles {
		c.Roles = append(c.Roles, config.Role{Name: r.Name})
	}
	_, err := c.Role(name)
	return err
}
