// Levels runs the tests of the repository level by level and says what ran: `go run ./test/levels [LEVEL…]`.
//
//	unit         every package's tests and scripts, as whoever calls; what needs root may skip itself
//	netns        the packages whose tests ask for features of the machine, as root, with those features required
//	integration  real container engines, as root
//
// Without arguments it runs all. It prints the output of what failed, one line for each level with its counts, every
// skipped test with its reason, and at the end `N passed, N failed, N skipped` over the distinct tests: one that
// skipped itself on one level and ran on another has run. It refuses to pass in silence: a level that cannot be set
// up, or runs no test, or skips a feature it requires, is a failure with its name on it.
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout))
}

// outcome is one level's row.
type outcome struct {
	level   string
	results map[name]string // of its leaves
	reasons map[name]string // why the skipped ones were
	problem string          // why the level as a whole failed, or ""
	notes   []string
	elapsed time.Duration
}

func run(ctx context.Context, words []string, w io.Writer) int {
	wanted, err := choose(words)
	if err != nil {
		fmt.Fprintln(w, "levels:", err)
		return 2
	}
	var outcomes []outcome
	for _, l := range wanted {
		begin := time.Now()
		o := l.run(ctx, w)
		o.level, o.elapsed = l.name, time.Since(begin)
		outcomes = append(outcomes, o)
	}
	return report(w, outcomes)
}

func choose(words []string) ([]level, error) {
	all := levels()
	if len(words) == 0 {
		return all, nil
	}
	var wanted []level
	for _, word := range words {
		i := slices.IndexFunc(all, func(l level) bool { return l.name == word })
		if i < 0 {
			return nil, fmt.Errorf("no level %q; there are unit, netns, integration", word)
		}
		wanted = append(wanted, all[i])
	}
	return wanted, nil
}

// report prints the tables and returns the exit code.
func report(w io.Writer, outcomes []outcome) int {
	var all []map[name]string
	reasons, code := map[name]string{}, 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w)
	fmt.Fprintln(table, "level\tpassed\tfailed\tskipped\tseconds\t")
	for _, o := range outcomes {
		all = append(all, o.results)
		for _, row := range split(o) {
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.0f\t\n", row.name, row.passed, row.failed, row.skipped, row.seconds)
		}
		maps.Copy(reasons, o.reasons)
		if o.problem != "" {
			code = 1
		}
	}
	_ = table.Flush()
	total := merge(all)
	skips(w, total, reasons)
	for _, o := range outcomes {
		for _, note := range o.notes {
			fmt.Fprintf(w, "%s: %s\n", o.level, note)
		}
		if o.problem != "" {
			fmt.Fprintf(w, "%s: FAILED: %s\n", o.level, o.problem)
		}
	}
	sum := counted(total)
	if sum.failed > 0 {
		code = 1
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped)
	return code
}

type row struct {
	name string
	count
	seconds float64
}

// split divides the unit level's row in two: tests of Go code, and scripts that drive the programs themselves.
func split(o outcome) []row {
	whole := row{name: o.level, seconds: o.elapsed.Seconds()}
	script := row{name: "script"}
	for n, r := range o.results {
		if o.level == "unit" && strings.HasPrefix(n.test, "TestScript") {
			script.add(r)
		} else {
			whole.add(r)
		}
	}
	if script.count == (count{}) {
		return []row{whole}
	}
	return []row{whole, script} // the seconds are those of both
}

// skips lists what ran on no level.
func skips(w io.Writer, total, reasons map[name]string) {
	var names []name
	for n, r := range total {
		if r == "skip" {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.SortFunc(names, compare)
	fmt.Fprintln(w, "\nskipped:")
	for _, n := range names {
		fmt.Fprintf(w, "  %s: %s\n", n, reasons[n])
	}
	fmt.Fprintln(w)
}
