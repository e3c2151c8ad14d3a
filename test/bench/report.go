package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one row of the table.
type figure struct {
	what     string
	unit     string
	ours     float64
	bare     float64 // of the bare handler, where compared
	ratio    float64 // median of the rounds' ratios
	compared bool
	byRatio  bool    // the budget is for the ratio and not for ours
	most     float64 // the budget
	noBudget bool
}

func (f figure) met() bool {
	if f.byRatio {
		return f.ratio <= f.most
	}
	return f.noBudget || f.ours <= f.most
}

// report is what a run has to say.
type report struct {
	begun   time.Time
	machine string
	loads   []string // load averages at the beginning and at the end
	rounds  int
	figures []figure
}

func (r report) missed() int {
	n := 0
	for _, f := range r.figures {
		if !f.met() {
			n++
		}
	}
	return n
}

var columns = []string{"figure", "taskrole", "bare net/http", "ratio", "budget", ""}

// cells are the texts of a row.
func (f figure) cells() []string {
	cells := []string{f.what, f.number(f.ours), "", "", "", ""}
	if f.compared {
		cells[2], cells[3] = f.number(f.bare), fmt.Sprintf("%.2f ×", f.ratio)
	}
	if f.noBudget {
		return cells
	}
	cells[4], cells[5] = "≤ "+f.limit(), "met"
	if !f.met() {
		cells[5] = "NOT MET"
	}
	return cells
}

func (f figure) number(v float64) string {
	if f.unit == "" {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f %s", v, f.unit)
}

func (f figure) limit() string {
	switch {
	case f.byRatio:
		return fmt.Sprintf("%g ×", f.most)
	case f.unit == "":
		return fmt.Sprintf("%g", f.most)
	}
	return fmt.Sprintf("%g %s", f.most, f.unit)
}

func (r report) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	for _, f := range r.figures {
		fmt.Fprintln(t, strings.Join(f.cells(), "\t"))
	}
	_ = t.Flush() // to a terminal or a pipe
	fmt.Fprintf(w, "%d figures, %d budgets not met; %s; load average %s\n", len(r.figures), r.missed(), r.machine, strings.Join(r.loads, " → "))
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What a role costs

The last run of `+"`make bench`"+`: %s, on %s. Load average at the beginning and at the end: %s.

| %s |
|---|---:|---:|---:|---:|---|
`, r.begun.UTC().Format(time.DateOnly), r.machine, strings.Join(r.loads, " and "), strings.Join(columns, " | "))
	for _, f := range r.figures {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(f.cells(), " | "))
	}
	fmt.Fprintf(&b, `
How it is measured:

- The agent is a process of its own on the simulated instance. A container is a process with a network namespace and a
  cgroup of its own, attached by the real hook; its client is in it. The bare handler is a process of its own that
  serves the same bytes at the same address in another such container.
- CPU a request is the server's own user and system time from `+"`/proc/PID/stat`"+`, over %d requests on new connections
  or %d on open ones, of %d clients. The servers take turns, for %d rounds; the table has the medians, and the
  ratio is the median of the rounds' ratios. A connection is attested when it is accepted, so the first row has it in
  every request.
- The first credential is timed in a container that was just attached, from before its process is forked until it has
  read the answer. Starting the client, a small Go program, is in it, and is most of it.
- Clients of a cold key are containers that start together and share a session. What they would wait with a warm key is
  taken off, from a second crowd in the same run; the rest must be no longer than the one call.
- A key is stale when its renewal is under way; nobody waits if everybody is answered long before the renewal is.
- Memory is VmRSS from `+"`/proc/PID/status`"+`, %v after the last request. The agent of the last three rows is a fresh one
  with %d containers already attached; each container has credentials of its own. What Go's runtime grows by once, half a MiB or
  more, is in the first hundred.
- The machine is never alone. Ratios from one run are worth more than microseconds.
`, newRequests, keepRequest, workers, r.rounds, settle, warmUp)
	return b.String()
}
