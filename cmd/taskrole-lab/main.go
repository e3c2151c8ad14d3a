// Command taskrole-lab is a simulated EC2 instance for demonstrations and tests: account, metadata service, container
// engine and all. It is never part of an installation, and neither taskrole nor taskrole-runtime links any of it.
package main

import (
	"context"
	"os"

	"taskrole/lab/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), cli.Options{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}))
}
