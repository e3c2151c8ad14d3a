// Command taskrole-runtime is in the path of every container start: as "taskrole-runtime hook" it is the hook that
// asks the agent for a container's role, and with any other arguments it is an OCI runtime that adds this hook and
// leaves the rest to runc or crun. It refuses to link what only the agent needs; a test lists its packages.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"taskrole/internal/hook"
	"taskrole/internal/shim"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "hook" {
		os.Exit(hook.Run(context.Background(), os.Stdin, os.Args[2:], os.Stderr))
	}
	dir, err := os.Getwd()
	self, selfErr := os.Executable()
	if err != nil || selfErr != nil {
		fmt.Fprintln(os.Stderr, "taskrole: no working directory, or no /proc: mount /proc and start it in a directory that is there [internal]")
		os.Exit(1)
	}
	os.Exit(shim.Run(shim.Options{
		Args: os.Args, Env: os.Environ(), Dir: dir, Self: self, Stderr: os.Stderr, Now: time.Now, Exec: syscall.Exec,
	}))
}
