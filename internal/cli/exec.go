package cli

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"taskrole/internal/companion"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
	"taskrole/internal/hostrole"
)

func newExec(o Options) *cobra.Command {
	var configPath string
	var verbose bool
	c := &cobra.Command{
		Use:   "exec [flags] ROLE -- COMMAND [ARGUMENT…]",
		Short: "Run a command of this host with a role",
		Long: `Runs the command with the role's credentials, which are renewed for as long as it
runs. They are not in its environment: that names a private endpoint on 127.0.0.1,
which every AWS SDK asks, and which only who has the command's environment may ask.
Keys, profiles, ~/.aws and the instance metadata service are hidden from it, so that
it has this role or an error.

It needs root. The agent gives the credentials; where none runs, they come from AWS
by the configuration file, with the identity that the caller's environment has.

Exit status: that of the command, which taskrole becomes; 125 if the role cannot be
had, 126 if the command cannot be run, 127 if there is none.`,
		Example: `  taskrole exec s3-reader -- aws s3 ls
  taskrole exec -v s3-reader -- ./backup.sh --full`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 && args[1] == "--" {
				args = append(args[:1:1], args[2:]...)
			}
			if len(args) < 2 { //nolint:mnd // the role and a program
				return instead{fault.New(fault.Usage, "a role and a command are needed", "taskrole exec ROLE -- COMMAND")}
			}
			return instead{runExec(c.Context(), o, configPath, args, verbose)}
		},
	}
	configFlag(c, &configPath)
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr what is done")
	c.Flags().SetInterspersed(false) // what follows the role is the command's
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return instead{err} })
	return c
}

func runExec(ctx context.Context, o Options, configPath string, args []string, verbose bool) error {
	absolute, err := filepath.Abs(configPath) // the companion is elsewhere
	if err != nil {
		return fault.As(err)
	}
	stderr, _ := o.Stderr.(*os.File)
	return hostrole.Run(ctx, hostrole.Options{
		Command: args[1:], Env: os.Environ(), Companion: credentialsCompanion(absolute, args[0], verbose),
		Verbose: verbose && stderr != nil, Stderr: stderr, UID: os.Geteuid(), Exec: syscall.Exec,
	})
}

// companionVerb is the word by which this program calls itself.
const companionVerb = "companion"

// newCompanion is what taskrole starts beside a command that it becomes. It is not for people.
func newCompanion(o Options) *cobra.Command {
	c := &cobra.Command{
		Use: companionVerb, Short: "Serve a command that taskrole became", Hidden: true,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCredentialsCompanion(o), newAgentCompanion(o))
	return c
}

// credentialsCompanion are the words that lead to newCredentialsCompanion.
func credentialsCompanion(configPath, role string, verbose bool, more ...string) []string {
	words := append([]string{companionVerb, "credentials", "--config=" + configPath, "--verbose=" + strconv.FormatBool(verbose)}, more...)
	return append(words, "--", role)
}

func newCredentialsCompanion(o Options) *cobra.Command {
	var configPath string
	var serve, verbose bool
	c := &cobra.Command{
		Use: "credentials ROLE", Short: "Serve a role's credentials to one command", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !serve {
				return companion.Detach(credentialsCompanion(configPath, args[0], verbose, "--serve")...)
			}
			logger, err := companionLogger(o, verbose)
			if err != nil {
				return err
			}
			return hostrole.Serve(c.Context(), hostrole.ServeOptions{
				Role: args[0], Socket: socketOf(configPath), ConfigPath: configPath, Logger: logger,
			})
		},
	}
	companionFlags(c, &configPath, &serve, &verbose)
	return c
}

// companionFlags are those of every companion.
func companionFlags(c *cobra.Command, configPath *string, serve, verbose *bool) {
	configFlag(c, configPath)
	c.Flags().BoolVar(serve, "serve", false, "be the companion, not its starter")
	c.Flags().BoolVar(verbose, "verbose", false, "log to stderr")
}

// companionLogger logs what goes wrong, where somebody wants to know it.
func companionLogger(o Options, verbose bool) (*slog.Logger, error) {
	level := "error"
	if verbose {
		level = "warn"
	}
	return daemon.NewLogger(o.Stderr, level)
}
