package cli

import (
	"context"
	"os"
	"syscall"

	"github.com/spf13/cobra"

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
	l.Env, l.Exec = os.Environ(), syscall.Exec
	l.Stderr, _ = o.Stderr.(*os.File)
	return launch.Run(ctx, l)
}
