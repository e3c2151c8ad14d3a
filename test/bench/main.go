// Bench measures what a role costs a host: `make bench`, or `taskrole-bench --bin DIRECTORY [--out BENCH.md] [--strict]`.
//
// It brings up the simulated account and instance, the real agent as a process of its own, and containers that are
// nothing but a process with a network namespace and a cgroup, attached by the real hook. Whatever is compared is
// compared with a bare net/http handler that writes the same bytes, in the same kind of container, in the same run and
// by turns, because the machine is never alone. Every load is bounded in number, and all of it ends by itself.
//
// It is a program and no test: a figure that misses its budget is shown as that, and fails nothing unless --strict is
// given. It refuses to send anything in the machine's own network namespace.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// The parts this program plays in other processes, by their first argument.
const (
	partContainer = "container" // the first process of a container: obeys orders on stdin
	partFloor     = "floor"     // the bare handler, on the listener it inherits
)

// exitMissed is for --strict.
const exitMissed = 3

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var err error
	switch part := first(args); part {
	case partContainer:
		err = obey(ctx, os.Stdin, stdout)
	case partFloor:
		err = serveFloor(os.Stdin)
	default:
		return measure(ctx, args, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func measure(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	bin := f.String("bin", "bin", "directory of taskrole and taskrole-runtime")
	out := f.String("out", "", "Markdown file to write the table to")
	strict := f.Bool("strict", false, "exit with status 3 when a budget is not met")
	only := f.String("only", "", "do only the steps whose name contains this: for working on one figure, not for the page")
	rounds := f.Int("rounds", 9, "rounds of each comparison; the median counts")
	if f.Parse(args) != nil || f.NArg() > 0 || *rounds < 1 || *only != "" && *out != "" {
		f.Usage()
		return 2
	}
	r := report{begun: time.Now(), machine: describeMachine(), rounds: *rounds, loads: []string{loadAverage()}}
	figures, err := measureAll(ctx, *bin, *only, *rounds, func(what string) { fmt.Fprintln(stderr, "bench:", what) })
	r.figures, r.loads = figures, append(r.loads, loadAverage())
	r.text(stdout)
	if err == nil && *out != "" {
		err = os.WriteFile(*out, []byte(r.markdown()), 0o644)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	case *strict && r.missed() > 0:
		return exitMissed
	}
	return 0
}
