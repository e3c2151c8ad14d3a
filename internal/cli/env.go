package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"taskrole/internal/control"
	"taskrole/internal/envfile"
	"taskrole/internal/fault"
	"taskrole/internal/instancerole"
	"taskrole/internal/terminal"
)

// envLimit is longer than the agent needs for STS.
const envLimit = 30 * time.Second

// envFlags are the words after "taskrole env".
type envFlags struct {
	config, format   string
	instance, imdsv1 bool
}

func newEnv(o Options) *cobra.Command {
	var f envFlags
	c := &cobra.Command{
		Use:   "env {ROLE | --instance}",
		Short: "Print a role's credentials as environment variables",
		Long: `Prints credentials of a role for a program that takes them from its environment, once:
they end within hours and nothing renews them. Containers with a role of their own need
none of this. It needs root, and the agent's log says that they were handed out.
With --instance they are those of this machine's own instance profile, from the instance
metadata service; no agent and no configuration is needed.`,
		Example: `  taskrole env s3-reader --format fish | source
  eval "$(taskrole env s3-reader)"
  docker run --env-file <(taskrole env s3-reader --format docker) amazon/aws-cli s3 ls
  taskrole env --instance --format json | jq -r .AWS_ACCESS_KEY_ID

  # in ~/.aws/config, for every AWS SDK; it asks again before the end
  [profile s3-reader]
  credential_process = sudo taskrole env s3-reader --format process`,
		Args: func(_ *cobra.Command, args []string) error { return f.check(args) },
		RunE: func(c *cobra.Command, args []string) error {
			s, err := f.session(c.Context(), args)
			if err != nil {
				return err
			}
			return printSession(o, envfile.Format(f.format), s)
		},
	}
	configFlag(c, &f.config)
	words := make([]string, 0, len(envfile.Formats()))
	for _, format := range envfile.Formats() {
		words = append(words, string(format))
	}
	c.Flags().StringVar(&f.format, "format", string(envfile.Shell), "one of "+strings.Join(words, ", "))
	c.Flags().BoolVar(&f.instance, "instance", false, "the credentials of this machine's instance profile")
	c.Flags().BoolVar(&f.imdsv1, "imdsv1", false, "with --instance: use version 1 of the service where it gives no session token")
	return c
}

// check refuses words that contradict each other before anybody is asked for credentials.
func (f *envFlags) check(args []string) error {
	switch {
	case f.instance && len(args) > 0:
		return fault.New(fault.Usage, "either a role or --instance, not both", `"taskrole env --help" has examples`)
	case !f.instance && f.imdsv1:
		return fault.New(fault.Usage, "--imdsv1 is of use with --instance only", `"taskrole env --help" has examples`)
	case !f.instance && len(args) == 0:
		return fault.New(fault.Usage, "which role?", `"taskrole roles" lists them; --instance takes this machine's own`)
	case len(args) > 1:
		return fault.New(fault.Usage, fmt.Sprintf("one role at a time, not %d", len(args)), `"taskrole env --help" has examples`)
	}
	return envfile.Known(envfile.Format(f.format))
}

func (f *envFlags) session(ctx context.Context, args []string) (envfile.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, envLimit)
	defer cancel()
	if f.instance {
		c, region, err := instancerole.Fetch(ctx, instancerole.Options{Getenv: os.Getenv, V1: f.imdsv1})
		return envfile.Session{Credentials: c, Region: region}, err
	}
	r, err := control.Credentials(ctx, socketOf(f.config), control.CredentialsRequest{Role: args[0], Use: "env"})
	return envfile.Session{Credentials: r.Credentials, Region: r.Region}, err
}

// printSession writes all of it or nothing. Who sees it on a terminal is told how long it is good for; what is read by a
// program is silent.
func printSession(o Options, f envfile.Format, s envfile.Session) error {
	now := time.Now()
	b, err := envfile.Write(f, s, now)
	if err != nil {
		return err
	}
	if err := printText(o.Stdout, string(b)); err != nil {
		return err
	}
	if terminal.Is(o.Stdout) {
		note(o.Stderr, fmt.Sprintf("these credentials end in %s, at %s, and nothing renews them; those of a container with the role are renewed",
			s.Credentials.Expires.Sub(now).Round(time.Minute), s.Credentials.Expires.Local().Format("15:04:05 MST")))
	}
	return nil
}
