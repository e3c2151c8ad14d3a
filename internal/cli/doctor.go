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
	Image      string
	Args       []string
	SDKs       []string
	JSON       bool
	ConfigPath string
}

// Doctor writes what it finds to out. It returns a fault if something is wrong.
type Doctor func(ctx context.Context, q DoctorQuery, out io.Writer) error

func newDoctor(o Options) *cobra.Command {
	var q DoctorQuery
	c := &cobra.Command{
		Use:   "doctor [CONTAINER | --image IMAGE [-- ARGUMENT…]]",
		Short: "Say why a container has the AWS credentials it has, or none",
		Long: `Looks at a container, at any process, or at this host: the process's environment and
files with its own rights, its network, and what the credential endpoints answer in
there. It says for each AWS SDK where it looks and what it finds, and what to do about
what is wrong. It changes nothing and prints no secret; it needs no agent and, with
--pid, no engine. With --image it judges docker run's arguments before anything is
started.
Exit status 1 if something keeps credentials from working.`,
		Example: `  taskrole doctor                       # this host
  taskrole doctor web                   # a container of any engine, by name or id
  taskrole doctor podman:web            # also docker:, containerd:[NAMESPACE/], oci:
  taskrole doctor --pid 4711 --sdk go-v2
  taskrole doctor web --json
  taskrole doctor --image amazon/aws-cli -- --network none -e AWS_ACCESS_KEY_ID`,
		RunE: func(c *cobra.Command, args []string) error {
			if q.Image != "" {
				if c.ArgsLenAtDash() > 0 || c.ArgsLenAtDash() < 0 && len(args) > 0 {
					return fault.New(fault.Usage, "docker run's arguments come after --", "taskrole doctor --image IMAGE -- ARGUMENT…")
				}
				q.Args = args
			} else if len(args) > 0 {
				q.Container = args[0]
			}
			things := 0
			for _, named := range []bool{q.Container != "", q.PID != 0, q.Image != ""} {
				if named {
					things++
				}
			}
			if things > 1 || q.PID < 0 || q.Image == "" && len(args) > 1 {
				return fault.New(fault.Usage, "doctor looks at one thing: a container, a process, or an image", "name one of them")
			}
			return o.Doctor(c.Context(), q, o.Stdout)
		},
	}
	c.Flags().IntVar(&q.PID, "pid", 0, "look at this process")
	c.Flags().StringVar(&q.Image, "image", "", "judge the start of a container of this image, before it starts")
	c.Flags().StringSliceVar(&q.SDKs, "sdk", nil, "SDKs in question, or all (default: those found in the process)")
	c.Flags().BoolVar(&q.JSON, "json", false, "print JSON")
	c.Flags().StringVar(&q.ConfigPath, "config", DefaultConfig, "configuration `file` of the agent, if it is there")
	return c
}
