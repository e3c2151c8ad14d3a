// Command taskrole-lab-probe is the program inside the lab's containers: an ordinary AWS client, and the few other
// things a test needs from a container that holds nothing else.
//
// Its AWS client is aws-sdk-go-v2 with the default credential chain and no option of its own, so that what it finds
// is what an application would find. It is a program apart from taskrole-lab because it is mounted into containers:
// it knows nothing of taskrole.
//
//	taskrole-lab-probe                      the same as identity
//	taskrole-lab-probe identity             who am I, which buckets are there: one JSON object
//	taskrole-lab-probe keys                 the three values of the default chain's credentials, as JSON
//	taskrole-lab-probe get [-X METHOD] [-H 'KEY: VALUE'] [-d BODY] URL
//	taskrole-lab-probe serve [-listen ADDRESS]
//	taskrole-lab-probe sleep DURATION
//	taskrole-lab-probe race ROLE            asks IMDS until it names the role, and says what it heard before: one JSON object
//	taskrole-lab-probe env NAME…            NAME=VALUE lines of those that are set
//	taskrole-lab-probe do STEP [-- STEP]…   several of these, one after the other
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// most is how long the probe lives at most when it is not told to serve or sleep longer.
const most = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(os.Stderr, "taskrole-lab-probe:", err)
		}
		os.Exit(1)
	}
}

// errReported says that what went wrong is in the output already.
var errReported = errors.New("reported")

// step is one of the things the probe does.
type step func(ctx context.Context, args []string, out io.Writer) error

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"identity"}
	}
	servers := &servers{}
	defer servers.close()
	steps := map[string]step{
		"identity": identity, "keys": keys, "get": get, "sleep": sleep, "env": environment, "serve": servers.serve, "race": race,
	}
	if args[0] != "do" {
		if err := one(ctx, steps, args, out); err != nil {
			return err
		}
		return servers.wait(ctx)
	}
	var failed error
	for _, words := range split(args[1:]) {
		// A step that fails does not stop the ones after it: a test wants to see them all.
		if err := one(ctx, steps, words, out); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func one(ctx context.Context, steps map[string]step, words []string, out io.Writer) error {
	if len(words) == 0 {
		return errors.New("empty step")
	}
	f, ok := steps[words[0]]
	if !ok {
		return fmt.Errorf("unknown step %q", words[0])
	}
	if err := f(ctx, words[1:], out); err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	return nil
}

// split cuts words at each "--".
func split(words []string) [][]string {
	steps := [][]string{nil}
	for _, w := range words {
		if w == "--" {
			steps = append(steps, nil)
			continue
		}
		steps[len(steps)-1] = append(steps[len(steps)-1], w)
	}
	return steps
}

func sleep(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("expected one duration, such as 2s")
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func environment(_ context.Context, args []string, out io.Writer) error {
	for _, name := range args {
		if v, ok := os.LookupEnv(name); ok {
			if _, err := fmt.Fprintf(out, "%s=%s\n", name, v); err != nil {
				return err
			}
		}
	}
	return nil
}
