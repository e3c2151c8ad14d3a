package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"taskrole/lab/cloud"
	"taskrole/lab/scenario"
	"taskrole/lab/world"
)

// errNotAsPromised means that the table came out in another way than it should.
var errNotAsPromised = errors.New("not every row came out as the table says")

func newDemo(o Options) *cobra.Command {
	var f flags
	var asJSON bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "play the story of roles in containers and print it as a table",
		Long: `demo starts a simulated EC2 instance with a container engine of its own and the
real agent, runs an ordinary AWS client in every kind of place, prints what each
of them was told, and takes everything down again. It reaches no network but its
own. The exit status is 0 only if every row came out as the table says.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return demo(c.Context(), o, f, asJSON) },
	}
	f.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line instead of the table")
	return c
}

func demo(ctx context.Context, o Options, f flags, asJSON bool) (err error) {
	begin := time.Now()
	w, err := f.launch(ctx, o.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		// Also when it was the printing that failed.
		if e := w.Close(); e != nil {
			err = errors.Join(err, broken(fmt.Errorf("take everything down: %w", e)))
		}
		say(o.Stderr, "everything is down, after "+since(begin))
	}()
	// The table is for people and says how it was made; lines of JSON are for programs.
	header := o.Stdout
	if asJSON {
		header = o.Stderr
	}
	if _, err := fmt.Fprintf(header, "%s, client: aws-sdk-go-v2, default credential chain\n\n", describe(w)); err != nil {
		return broken(err)
	}
	cells, err := scenario.Run(ctx, stage(w, o.Stderr))
	if err != nil {
		return broken(err)
	}
	write := scenario.WriteText
	if asJSON {
		write = scenario.WriteJSON
	}
	if err := write(o.Stdout, cells); err != nil {
		return broken(err)
	}
	if slices.ContainsFunc(cells, func(c scenario.Cell) bool { return !c.OK() }) {
		for _, words := range w.AgentComplaints() {
			say(o.Stderr, "the agent said: "+words)
		}
		return errNotAsPromised
	}
	return nil
}

// stage hands a world to the story.
func stage(w *world.World, stderr io.Writer) scenario.Stage {
	return scenario.Stage{
		Account: scenario.Account{
			ID: cloud.AccountID, HostRole: cloud.InstanceRole, HostSession: cloud.InstanceID, TaskRole: cloud.TaskReader,
			Buckets: []string{cloud.Reports, cloud.Uploads},
		},
		Metadata: w.Cloud, Engine: w.Engine, Host: w.Host, Container: w.Container(), Way: w.Way,
		Role: world.Role, IsolatedRole: world.IsolatedRole,
		Progress: func(c scenario.Cell, done, all int) {
			text := fmt.Sprintf("[%2d/%d] %s, %s: %s (%.1f s)", done, all, c.Where, c.Column, c.Words, c.Seconds())
			if !c.OK() {
				text += ": " + c.Wrong
			}
			say(stderr, text)
		},
	}
}
