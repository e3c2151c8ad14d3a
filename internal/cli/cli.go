// Package cli is the command line of taskrole: words, flags, help, and what a person reads when something is wrong.
//
// It is the only package that knows cobra, and it decides nothing: each command turns its arguments into one call.
// It refuses to be a second configuration: a flag names a file or how much is logged, the rest is in the file.
// Answers go to stdout; faults go to stderr as "taskrole: error: …" and "taskrole: hint: …", and choose the exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
)

// DefaultConfig is the configuration file of the agent.
const DefaultConfig = daemon.DefaultConfig

// Options is the process the command line belongs to. Every field must be set.
type Options struct {
	Args   []string // without the program's name
	Stdout io.Writer
	Stderr io.Writer
	// BecomeAgent is what "taskrole agent" does: this process becomes the program with these words. It returns only if it cannot.
	BecomeAgent func(args []string) error
	// Agent is what serves containers that are started where no agent runs.
	Agent daemon.Agent
	// Doctor is what "taskrole doctor" runs.
	Doctor Doctor
	// Audit is what "taskrole audit" runs.
	Audit Audit
	// Describe says of a configuration what its agent would say of its roles.
	Describe func(*config.Config) []control.Role
	// Refused says what to do about a role that AWS refuses in these words. what is nil if nothing is known beyond them.
	Refused func(configPath string, role control.Role, said string) (what any, text string)
	// RemoveGuard is what "taskrole guard remove" does. It says whether there was anything.
	RemoveGuard func() (bool, error)
}

// Run runs one command and returns the exit code.
func Run(ctx context.Context, o Options) int {
	root := newRoot(o) //nolint:contextcheck // cobra hands ctx to each RunE
	root.SetArgs(o.Args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return fault.ExitOK
	}
	f := toFault(err, root)
	daemon.Show(o.Stderr, f)
	if _, ok := errors.AsType[instead](err); ok && f.Exit() < fault.ExitInstead {
		return fault.ExitInstead
	}
	return f.Exit()
}

// instead marks the error of a command that would have become another one: the small exit codes are that one's.
type instead struct{ error }

func (e instead) Unwrap() error { return e.error }

func newRoot(o Options) *cobra.Command {
	root := &cobra.Command{
		Use:   "taskrole",
		Short: "ECS-style task roles for any container on this host",
		Long: `taskrole gives containers AWS roles of their own: temporary, rotated, one for each
container, at the addresses where every AWS SDK looks. It needs no ECS, and no
network in the container.`,
		Example: `  taskrole setup                       # what would be installed on this host?
  taskrole config check                # is /etc/taskrole/config.yaml usable?
  taskrole agent                       # serve the roles it names
  docker run --device taskrole/role=s3-reader amazon/aws-cli s3 ls
  docker run --runtime taskrole -e TASKROLE=s3-reader amazon/aws-cli s3 ls`,
		SilenceErrors:     true, // they are shown here, in our form
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(o.Stdout)
	root.SetErr(o.Stderr)
	root.AddCommand(newAgent(o), newAudit(o), newCompanion(o), newConfig(o), newDoctor(o), newEnv(o), newExec(o), newPs(o), newGuard(o), newRoles(o), newRun(o), newSetup(o),
		newVersion(o))
	return root
}

// toFault makes a fault of whatever a command returned. Commands return faults and config.Problems; what is neither
// comes from cobra, which found the words wrong.
func toFault(err error, root *cobra.Command) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	what, _, _ := strings.Cut(err.Error(), "\n") // cobra puts its own hint below
	return fault.Wrap(err, fault.Usage, what, fmt.Sprintf(`"%s --help" lists what there is`, root.Name()))
}

// note tells a person something beside the answer.
func note(w io.Writer, what string) { _, _ = io.WriteString(w, "taskrole: note: "+what+"\n") }
