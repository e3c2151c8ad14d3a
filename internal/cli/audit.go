package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"taskrole/internal/fault"
)

// AuditQuery is how "taskrole audit" writes its list.
type AuditQuery struct {
	JSON, SARIF bool
	ConfigPath  string
	Version     string
}

// Audit writes who has which AWS identity to out. It returns a fault if a key that never expires is among them.
type Audit func(ctx context.Context, q AuditQuery, out io.Writer) error

func newAudit(o Options) *cobra.Command {
	var q AuditQuery
	c := &cobra.Command{
		Use:   "audit",
		Short: "List who on this host has which AWS identity, and how",
		Long: `Looks at every container of Docker and Podman, running or not, at every image, and at
the running containers of other engines: keys in environments, files, images and their
history, roles by taskrole, the host's role by the network. The worst comes first: keys
that never expire. It changes nothing and prints no secret.
Exit status 1 if there is such a key, or if an engine does not answer.`,
		Example: `  taskrole audit
  taskrole audit --sarif > taskrole.sarif`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if q.JSON && q.SARIF {
				return fault.New(fault.Usage, "audit writes one format", "choose --json or --sarif")
			}
			q.Version = version()
			return o.Audit(c.Context(), q, o.Stdout)
		},
	}
	c.Flags().BoolVar(&q.JSON, "json", false, "print JSON")
	c.Flags().BoolVar(&q.SARIF, "sarif", false, "print SARIF 2.1.0")
	c.Flags().StringVar(&q.ConfigPath, "config", DefaultConfig, "configuration `file` of the agent, if it is there")
	return c
}
