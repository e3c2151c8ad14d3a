package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"taskrole/lab/world"
)

func newUp(o Options) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "up",
		Short: "keep the simulated instance running, and say how to use it",
		Long: `up starts the simulated EC2 instance, its container engine and the agent, prints
how to reach each of them, and keeps them until it is interrupted. Then
everything it made is taken down.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.Context(), o, f) },
	}
	f.add(c)
	return c
}

func up(ctx context.Context, o Options, f flags) (err error) {
	w, err := f.launch(ctx, o.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		if e := w.Close(); e != nil {
			err = errors.Join(err, broken(fmt.Errorf("take everything down: %w", e)))
		}
		say(o.Stderr, "everything is down")
	}()
	if _, err := io.WriteString(o.Stdout, usage(w)); err != nil {
		return broken(err)
	}
	<-ctx.Done()
	return nil
}

// usage is a page of commands to paste. They are run as root, outside.
func usage(w *world.World) string {
	pid := os.Getpid()
	inside := fmt.Sprintf("nsenter --net=/proc/%d/fd/%d env -i PATH=\"$PATH\" AWS_ENDPOINT_URL=%s AWS_REGION=%s",
		pid, w.Instance.NS().FD(), w.Instance.ServicesURL(), w.Cloud.Region())
	control := "curl -s --unix-socket " + w.Instance.ControlSocket()
	var b strings.Builder
	section := func(title string, lines ...string) {
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, l := range lines {
			fmt.Fprintf(&b, "    %s\n", l)
		}
	}
	fmt.Fprintf(&b, "The simulated instance is up: %s.\n", describe(w))
	section("On the instance itself (any program can take the place of the client):", inside+" "+w.Programs.Probe)
	if w.Docker != nil {
		role := "--runtime taskrole -e TASKROLE=" + world.Role
		if w.Way == "cdi" {
			role = "--device taskrole/role=" + world.Role
		}
		run := fmt.Sprintf("docker run --rm -e AWS_ENDPOINT_URL=%s -e AWS_REGION=%s", w.Instance.ServicesURL(), w.Cloud.Region())
		section("In containers of its private Docker:", "export DOCKER_HOST="+w.Docker.Host(),
			run+" "+world.Ours+"                 # with the host's role",
			run+" "+role+" "+world.Ours,
			run+" --network none "+strings.ReplaceAll(role, world.Role, world.IsolatedRole)+" "+world.Ours)
	}
	section("The simulated account, while it runs:",
		control+" http://lab/calls                                     # who called what",
		control+` -X PUT -d '{"hop_limit": 1, "tokens_required": true}' http://lab/imds`,
		control+` -X PUT -d '{"service": "sts", "kind": "throttle", "count": 5}' http://lab/faults`,
		control+" -X DELETE http://lab/faults",
		control+" -X POST http://lab/expire                            # ends every session",
	)
	section("The agent:", "configuration  "+w.Config, "log            "+w.AgentLog, "socket         "+w.Socket)
	fmt.Fprintf(&b, "\nCtrl-C, or kill %d, takes everything down.\n", pid)
	return b.String()
}
