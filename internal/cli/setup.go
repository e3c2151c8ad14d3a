package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/engine/docker"
	"taskrole/internal/fault"
	"taskrole/internal/setup"
)

type setupFlags struct {
	yes, remove, cdi, restartDocker bool
	root, binDir                    string
}

func newSetup(o Options) *cobra.Command {
	var f setupFlags
	c := &cobra.Command{
		Use:   "setup",
		Short: "Install taskrole on this host, or remove it",
		Long: `Shows what it would change: each file with the differences, each command. With --yes it
does that. What is as it should be stays untouched, so it can be run again at any time,
for instance with a newer release. --remove leads back to the bytes that were there
before; where somebody has changed a file since, only what setup added is taken out.

It installs taskrole and taskrole-runtime (from the directory this program is in), a
systemd unit, the directory for CDI documents, the runtime "taskrole" in Docker's
daemon.json, completions for bash, zsh and fish, manual pages, and a first configuration
where there is none. Docker is neither restarted nor reloaded unless --restart-docker
says so. With --root it changes that tree alone and runs no command.`,
		Example: `  taskrole setup                       # what would be done?
  sudo taskrole setup --yes
  sudo taskrole setup --remove --yes
  taskrole setup --yes --root ./package --bin-dir /usr/bin`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runSetup(c.Context(), o, c.Root(), f) },
	}
	flags := c.Flags()
	flags.BoolVar(&f.yes, "yes", false, "do it, instead of showing it")
	flags.BoolVar(&f.remove, "remove", false, "the way back")
	flags.StringVar(&f.root, "root", "/", "the `directory` to install below")
	flags.StringVar(&f.binDir, "bin-dir", "/usr/local/bin", "the `directory` of the programs")
	flags.BoolVar(&f.cdi, "cdi", false, "switch CDI on in Docker, which versions 25 to 28.1 need")
	flags.BoolVar(&f.restartDocker, "restart-docker", false, "let Docker take the change: by a reload, with --cdi by a restart")
	return c
}

func runSetup(ctx context.Context, o Options, root *cobra.Command, f setupFlags) error {
	so, closeAll, err := setupOptions(root, f)
	if err != nil {
		return err
	}
	if so.Host {
		so.Clear = func(context.Context) error { _, err := o.RemoveGuard(); return err }
	}
	defer closeAll()
	if f.yes && so.Root == "/" && os.Geteuid() != 0 {
		return fault.New(fault.PermissionDenied, "only root may change this host", "run the command as root, or without --yes to see what it would do")
	}
	var p *setup.Plan
	if f.remove {
		p, err = setup.Remove(ctx, so)
	} else {
		p, err = setup.Install(so)
	}
	if err != nil {
		return err
	}
	if err := p.Write(o.Stdout); err != nil {
		return fault.As(fmt.Errorf("write the plan: %w", err))
	}
	switch {
	case !p.Changes():
		note(o.Stderr, "there is nothing to change")
	case !f.yes:
		note(o.Stderr, "nothing was changed; the same with --yes does it")
	default:
		if err := p.Apply(ctx); err != nil {
			return err
		}
	}
	for _, n := range p.Notes {
		note(o.Stderr, n)
	}
	return nil
}

// setupOptions puts together what setup may use here.
func setupOptions(root *cobra.Command, f setupFlags) (setup.Options, func(), error) {
	none := func() {}
	self, err := os.Executable()
	if err != nil {
		return setup.Options{}, none, fmt.Errorf("find this program: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return setup.Options{}, none, fmt.Errorf("find this program: %w", err)
	}
	so := setup.Options{BinDir: f.binDir, Programs: filepath.Dir(self), CDI: f.cdi, RestartDocker: f.restartDocker}
	if so.Root, err = filepath.Abs(f.root); err != nil {
		return setup.Options{}, none, fmt.Errorf("find the directory to install below: %w", err)
	}
	if info, err := os.Stat(so.Root); err != nil || !info.IsDir() {
		return setup.Options{}, none, fault.Wrap(err, fault.Usage, fmt.Sprintf("%s is not a directory", so.Root), "make it first, or name another with --root")
	}
	if so.Extra, err = extras(root); err != nil {
		return setup.Options{}, none, err
	}
	if so.Host = so.Root == "/"; !so.Host {
		return so, none, nil
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3)
		so.Command = runCommand
	}
	host := config.DefaultDocker
	if c, err := config.Load(DefaultConfig); err == nil {
		host = c.Docker
	}
	if host == "" {
		return so, none, nil
	}
	e, err := docker.New(host)
	if err != nil {
		return setup.Options{}, none, err
	}
	so.ByRuntime = e.ByRuntime
	return so, func() { _ = e.Close() }, nil
}

// runCommand runs a command of the host; what it says is in the error.
func runCommand(ctx context.Context, words ...string) error {
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput() //nolint:gosec // setup's own words
	if err == nil {
		return nil
	}
	if len(out) == 0 {
		return err
	}
	return errors.Join(err, errors.New(string(out)))
}
