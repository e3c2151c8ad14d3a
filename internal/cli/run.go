package cli

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"taskrole/internal/companion"
	"taskrole/internal/fault"
	"taskrole/internal/launch"
)

func newRun(o Options) *cobra.Command {
	var configPath, engine string
	var verbose bool
	c := &cobra.Command{
		Use:   "run [flags] ROLE [ARGUMENT…]",
		Short: "Start a container with a role, by docker run",
		Long: `Starts a container with a role by the best way in that the engine has: a CDI device,
the runtime taskrole, or a label. Everything behind the role is passed on to docker
run untouched, and taskrole becomes that command: exit status, signals, terminal and
input are docker's.

Whether the container may have the role is decided when it starts. Arguments that say
something else than the role are refused before.

Where no agent runs, root needs none: taskrole keeps an agent of its own in the
background, by the same configuration file, until the last container that was started
so has ended.

Exit status: that of docker run; 125, which docker run has too for a container that did
not start, if taskrole itself refuses.`,
		Example: `  taskrole run s3-reader --rm amazon/aws-cli s3 ls
  taskrole run -v s3-reader -it --network none amazon/aws-cli s3 ls
  taskrole run --engine podman s3-reader --rm amazon/aws-cli s3 ls`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return instead{fault.New(fault.Usage, "a role is needed", "taskrole run ROLE [docker run's arguments…]")}
			}
			return instead{runRun(c.Context(), o, launch.Options{
				Engine: engine, Role: args[0], Args: args[1:], ConfigPath: configPath, Verbose: verbose,
			})}
		},
	}
	configFlag(c, &configPath)
	c.Flags().StringVar(&engine, "engine", launch.Docker, "whose command line is used: docker or podman")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr what is done")
	c.Flags().SetInterspersed(false) // what follows the role is docker's
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return instead{err} })
	return c
}

func runRun(ctx context.Context, o Options, l launch.Options) error {
	absolute, err := filepath.Abs(l.ConfigPath) // the companion is elsewhere
	if err != nil {
		return fault.As(err)
	}
	l.Env, l.UID, l.Exec = os.Environ(), os.Geteuid(), syscall.Exec
	l.Companion = agentCompanion(absolute, l.Verbose)
	l.Stderr, _ = o.Stderr.(*os.File)
	return launch.Run(ctx, l)
}

// agentCompanion are the words that lead to newAgentCompanion.
func agentCompanion(configPath string, verbose bool, more ...string) []string {
	return append([]string{companionVerb, "agent", "--config=" + configPath, "--verbose=" + strconv.FormatBool(verbose)}, more...)
}

func newAgentCompanion(o Options) *cobra.Command {
	var configPath string
	var serve, verbose bool
	c := &cobra.Command{
		Use: "agent", Short: "Be the agent of containers where none runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !serve {
				return companion.Detach(agentCompanion(configPath, verbose, "--serve")...)
			}
			logger, err := companionLogger(o, verbose)
			if err != nil {
				return err
			}
			return launch.Keep(c.Context(), launch.KeepOptions{ConfigPath: configPath, Agent: launch.Agent(o.Agent), Logger: logger})
		},
	}
	companionFlags(c, &configPath, &serve, &verbose)
	return c
}
