// Package hostrole gives a process of the host a role: "taskrole exec".
//
// The command finds its credentials at an endpoint on the host's loopback that only it has the token of, and that lives
// as long as the command: a companion (package companion) serves it, and renews by asking the agent or, where none
// runs, AWS itself. The program then becomes the command, so exit status, signals, terminal and input are the command's.
//
// It refuses to start a command without credentials in hand, and whatever else in the environment would give the command
// another identity than the role's, or the host's own when the role's fails. It is apart from the agent because nothing
// of a container is in it: on the host no kernel object says who a client is, so the token has to.
package hostrole

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"taskrole/internal/companion"
	"taskrole/internal/fault"
)

// patience is for the first credentials: longer than the agent waits for AWS.
const patience = 30 * time.Second

// Options say what to run.
type Options struct {
	Command []string // program and arguments, not empty
	Env     []string // of the caller
	// Companion are the words by which this program calls Serve.
	Companion []string
	Verbose   bool     // say what is done
	Stderr    *os.File // of the command, and where is said what is done
	UID       int      // effective one of the caller
	// Exec becomes the command: syscall.Exec.
	Exec func(path string, argv, env []string) error
}

// access is how a command finds its credentials.
type access struct {
	URI     string    `json:"uri"`
	Token   string    `json:"token"`
	Region  string    `json:"region,omitempty"`
	RoleARN string    `json:"role_arn"`
	Session string    `json:"session"`
	Expires time.Time `json:"expires"`
	Agent   bool      `json:"agent"` // whether an agent gives the credentials
}

// Run becomes the command, and returns only if it cannot. Faults: command-missing and command-unusable, which are the
// command's; permission-denied; and whatever keeps the role from being had.
func Run(ctx context.Context, o Options) error {
	path, err := find(o.Command[0])
	if err != nil {
		return err
	}
	if o.UID != 0 {
		return fault.New(fault.PermissionDenied, "only root may take a role for a process of the host",
			fmt.Sprintf("sudo taskrole exec ROLE -- %s", strings.Join(o.Command, " ")))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var log *os.File
	if o.Verbose {
		log = o.Stderr
	}
	var a access
	if err := companion.Start(ctx, log, &a, o.Companion...); err != nil {
		return err
	}
	env, removed := environment(o.Env, a)
	if o.Verbose {
		explain(o.Stderr, a, removed)
	}
	err = o.Exec(path, o.Command, env)
	return unusable(path, err)
}

// find looks for the program as a shell does.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", fault.Wrap(err, fault.CommandMissing, fmt.Sprintf("there is no program %q", name), "write the command as you would without taskrole, behind --")
	default: // also one that only the current directory has: see exec.ErrDot
		return "", unusable(name, err)
	}
}

func unusable(path string, err error) error {
	if p, ok := errors.AsType[*exec.Error](err); ok {
		err = p.Err
	}
	return fault.Wrap(err, fault.CommandUnusable, fmt.Sprintf("%q cannot be run: %v", path, err), "")
}

// explain says what was done, for -v.
func explain(w io.Writer, a access, removed []string) {
	from := "AWS itself, as no agent runs"
	if a.Agent {
		from = "the agent"
	}
	fmt.Fprintf(w, "taskrole: role %s, session %s, from %s; until %s, renewed before\n", a.RoleARN, a.Session, from, a.Expires.UTC().Format(time.RFC3339))
	fmt.Fprintf(w, "taskrole: the command finds it at %s\n", a.URI)
	if len(removed) > 0 {
		fmt.Fprintf(w, "taskrole: taken out of its environment or replaced: %s\n", strings.Join(removed, " "))
	}
	fmt.Fprintln(w, "taskrole: it does not see ~/.aws, nor the instance metadata service")
}
