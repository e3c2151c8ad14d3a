package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"taskrole/internal/fault"
)

// DoctorQuery is what "taskrole doctor" is asked to look at: a container, a process, or the host.
type DoctorQuery struct {
	Container  string
	PID        int
	SDKs       []string
	JSON       bool
	ConfigPath string
}

// Doctor writes what it finds to out. It returns a fault if something is wrong.
type Doctor func(ctx context.Context, q DoctorQuery, out io.Writer) error

func newDoctor(o Options) *cobra.Command {
	var q DoctorQuery
	c := &cobra.Command{
		Use:   "doctor [CONTAINER]",
		Short: "Say why a container has the AWS credentials it has, or none",
		Long: `Looks at a container, at any process, or at this host: the process's environment and
files with its own rights, its network, and what the credential endpoints answer in
there. It says for each AWS SDK where it looks and what it finds, and what to do about
what is wrong. It changes nothing and prints no secret; it needs no agent and, with
--pid, no engine.
Exit status 1 if something keeps credentials from working.`,
		Example: `  taskrole doctor                       # this host
  taskrole doctor web                   # a container of Docker
  taskrole doctor --pid 4711 --sdk go-v2
  taskrole doctor web --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Container = args[0]
			}
			if q.Container != "" && q.PID != 0 || q.PID < 0 {
				return fault.New(fault.Usage, "doctor looks at one thing: a container or a process", "leave --pid or the container out")
			}
			return o.Doctor(c.Context(), q, o.Stdout)
		},
	}
	c.Flags().IntVar(&q.PID, "pid", 0, "look at this process")
	c.Flags().StringSliceVar(&q.SDKs, "sdk", nil, "SDKs in question, or all (default: those found in the process)")
	c.Flags().BoolVar(&q.JSON, "json", false, "print JSON")
	c.Flags().StringVar(&q.ConfigPath, "config", DefaultConfig, "configuration `file` of the agent, if it is there")
	return c
}
