// Package cli is the command line of taskrole-lab: demo plays the story and takes everything down, up keeps the
// instance for whoever wants to try things.
//
// It turns words into one world and one play, and owns the way out: whatever signal comes, and however often, what
// was made is taken down before the program ends. The same program is, by other names, the OCI runtime of the
// namespace engine and the supervisor of a private Docker; those are not commands for people and not listed.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskrole/internal/fault"
	"taskrole/lab/ec2"
	"taskrole/lab/engine/ocirun"
	"taskrole/lab/world"
)

// exitInterrupted is what a shell says of a program that ended by SIGINT.
const exitInterrupted = 130

// Options is the process this command line belongs to. Every field must be set.
type Options struct {
	Args   []string // with the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Run runs one command and returns the exit code.
func Run(ctx context.Context, o Options) int {
	if len(o.Args) > 0 && filepath.Base(o.Args[0]) == ocirun.Name {
		return ocirun.Main(ctx, o.Args[1:], o.Stdout, o.Stderr)
	}
	if len(o.Args) > 1 && o.Args[1] == ec2.EngineVerb {
		return ec2.EngineMain(o.Stdin, o.Stdout) //nolint:contextcheck // it lives as long as its stdin
	}
	ctx, done := interruptible(ctx, o.Stderr)
	defer done()
	root := newRoot(o) //nolint:contextcheck // cobra hands ctx to each RunE
	root.SetArgs(o.Args[min(1, len(o.Args)):])
	err := root.ExecuteContext(ctx)
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		if err := notCancelled(err); err != nil {
			show(o.Stderr, fault.As(err))
		}
		return exitInterrupted
	case err == nil:
		return fault.ExitOK
	case errors.Is(err, errNotAsPromised):
		return fault.ExitFault // the table has said it
	}
	f := toFault(err)
	show(o.Stderr, f)
	return f.Exit()
}

// notCancelled drops what only says that the run was interrupted, which the person at the keyboard knows. What else
// went wrong, above all while cleaning up, is somewhere in the same tree and stays.
func notCancelled(err error) error {
	if !errors.Is(err, context.Canceled) && !errors.Is(err, errInterrupted) {
		return err
	}
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case interface{ Unwrap() []error }:
		var left []error
		for _, branch := range e.Unwrap() {
			left = append(left, notCancelled(branch))
		}
		return errors.Join(left...)
	case interface{ Unwrap() error }:
		return notCancelled(e.Unwrap())
	}
	return nil
}

// errInterrupted ends a run from outside.
var errInterrupted = errors.New("interrupted")

// interruptible ends the context with the first signal and lets no further one end the program: the second Ctrl-C of
// an impatient person must not leave half an instance behind. SIGPIPE is among them because the reader of our output
// may go away first.
func interruptible(ctx context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	quit := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-signals:
				if ctx.Err() == nil {
					say(stderr, "interrupted: taking everything down")
				}
				cancel(errInterrupted)
			}
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		watcher.Wait()
		cancel(nil)
	}
}

func say(w io.Writer, text string) {
	_, _ = fmt.Fprintln(w, "taskrole-lab: "+text) // to a person, who may have gone
}

func show(w io.Writer, f *fault.Error) {
	say(w, "error: "+f.What)
	if f.Hint != "" {
		say(w, "hint: "+f.Hint)
	}
}

// toFault makes a fault of whatever a command returned; what is none comes from cobra, which found the words wrong.
func toFault(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.Wrap(err, fault.Usage, err.Error(), `"taskrole-lab --help" lists what there is`)
}

// broken makes a fault of something that went wrong while running.
func broken(err error) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.Wrap(err, fault.Internal, err.Error(), "")
}

// flags are those of both commands.
type flags struct {
	engine  string
	root    string
	image   string
	load    string
	verbose bool
}

func (f *flags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.engine, "engine", string(world.Auto), "docker, namespace or auto: docker when dockerd is installed")
	c.Flags().StringVar(&f.root, "docker-root", "", "use the Docker in this root file `tree` instead of the machine's")
	c.Flags().StringVar(&f.image, "image", "", "put the client into this `image` of the private daemon instead of an empty one")
	c.Flags().StringVar(&f.load, "load", "", "give the private daemon the images in this `file`, made by docker save")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "show what the simulated services log")
}

// launch brings a world up and says each step on stderr.
func (f *flags) launch(ctx context.Context, stderr io.Writer) (*world.World, error) {
	if os.Geteuid() != 0 {
		return nil, fault.New(fault.PermissionDenied, "the simulated instance needs root, to make network namespaces", "run it with sudo")
	}
	o := world.Options{
		Engine: world.Engine(f.engine), DockerRoot: f.root, Image: f.image, Load: f.load,
		Progress: func(step string) { say(stderr, step) },
	}
	if f.verbose {
		o.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	}
	w, err := world.Launch(ctx, o)
	if err != nil {
		return nil, broken(err)
	}
	return w, nil
}

// describe names the engine and the way in.
func describe(w *world.World) string {
	way := map[bool]string{true: "CDI device taskrole/role=NAME", false: "OCI runtime taskrole"}[w.Way == "cdi"]
	return fmt.Sprintf("engine %s, way in: %s", w.Engine.Name(), way)
}

func newRoot(o Options) *cobra.Command {
	root := &cobra.Command{
		Use:               "taskrole-lab",
		Short:             "a simulated EC2 instance, to see taskrole work without AWS",
		SilenceErrors:     true, // they are shown by Run, in our form
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(o.Stdout)
	root.SetErr(o.Stderr)
	root.AddCommand(newDemo(o), newUp(o))
	return root
}

// since is how long something took, for people.
func since(begin time.Time) string { return fmt.Sprintf("%.1f s", time.Since(begin).Seconds()) }
