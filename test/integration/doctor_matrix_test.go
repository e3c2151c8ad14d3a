//go:build integration

package integration

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/diagnose"
)

// healthy is the row and column of what is well.
const healthy = "(healthy)"

// missed is the column of what was injected and not reported.
const missed = "(missed)"

// trial is one condition and what the doctor made of it.
type trial struct {
	name, where, want, got string
	seconds                float64
}

// confusion is the matrix of what was injected and what was reported.
type confusion struct {
	trials []trial
	cells  map[[2]string]int // by injected and reported code
}

// add counts a trial. One with several causes counts in the row of each.
func (c *confusion) add(t trial) {
	c.trials = append(c.trials, t)
	if c.cells == nil {
		c.cells = map[[2]string]int{}
	}
	want, got := strings.Fields(t.want), strings.Fields(t.got)
	if len(want) == 0 {
		want = []string{healthy}
	}
	if len(got) == 0 && t.want == "" {
		got = []string{healthy}
	}
	for _, w := range want {
		reported := missed
		if slices.Contains(got, w) {
			reported = w
		}
		c.cells[[2]string{w, reported}]++
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			c.cells[[2]string{want[0], g}]++
		}
	}
}

// offDiagonal is how often something else than what was injected was reported, or nothing.
func (c *confusion) offDiagonal() int {
	n := 0
	for cell, count := range c.cells {
		if cell[0] != cell[1] {
			n += count
		}
	}
	return n
}

// injected are the codes that were made, sorted.
func (c *confusion) injected() []string {
	rows := map[string]bool{}
	for cell := range c.cells {
		rows[cell[0]] = true
	}
	return slices.Sorted(maps.Keys(rows))
}

// String is the list of trials and the matrix below it.
func (c *confusion) String() string {
	var b strings.Builder
	for _, t := range c.trials {
		fmt.Fprintf(&b, "%-36s %-14s %-46s %-46s %5.0f ms\n", t.name, t.where, t.want, t.got, t.seconds*1000)
	}
	rows := c.injected()
	columns := slices.Clone(rows)
	for cell := range c.cells {
		if !slices.Contains(columns, cell[1]) {
			columns = append(columns, cell[1])
		}
	}
	slices.Sort(columns[len(rows):])
	fmt.Fprintf(&b, "\ninjected (rows) × reported (columns, by the rows' numbers)\n%36s", "")
	for n := range columns {
		fmt.Fprintf(&b, "%3d", n+1)
	}
	for n, row := range rows {
		fmt.Fprintf(&b, "\n%2d %-33s", n+1, row)
		for _, column := range columns {
			if count := c.cells[[2]string{row, column}]; count > 0 {
				fmt.Fprintf(&b, "%3d", count)
			} else {
				b.WriteString("  ·")
			}
		}
	}
	for n := len(rows); n < len(columns); n++ {
		fmt.Fprintf(&b, "\n%2d %s, never injected", n+1, columns[n])
	}
	codes := len(slices.DeleteFunc(slices.Clone(rows), func(r string) bool { return r == healthy }))
	fmt.Fprintf(&b, "\n\n%d trials, %d codes of %d injected, off the diagonal: %d\n", len(c.trials), codes, len(diagnose.Codes()), c.offDiagonal())
	return b.String()
}

// results is the directory that the matrix and the reports for people are written to, or "".
func results() string { return os.Getenv("TASKROLE_TEST_RESULTS") }

// keep writes the matrix there, if there is one.
func (c *confusion) keep(t *testing.T) {
	t.Helper()
	if results() != "" {
		check(t, os.WriteFile(filepath.Join(results(), "doctor-matrix.txt"), []byte(c.String()), 0o600))
	}
}

// keep adds a report to those for people, if they are kept.
func keep(t *testing.T, title string, report []byte) {
	t.Helper()
	if results() == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(results(), "doctor-reports.txt"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(t, err)
	defer f.Close()
	_, err = fmt.Fprintf(f, "== %s\n%s\n", title, report)
	check(t, err)
}

// TestDoctorNamesTheInjectedCause is the proof that doctor does not guess: every condition is made with a real
// container, a host, or docker run's arguments, and the report must name exactly it.
func TestDoctorNamesTheInjectedCause(t *testing.T) {
	var all confusion
	defer func() {
		t.Logf("the doctor's confusion matrix:\n%s", all.String())
		all.keep(t)
	}()
	onEach(t, func(t *testing.T, w *world) {
		w.prepare(t)
		w.compare(t, w.try(t, &all, conditions()))
	})
	w := worlds["docker-28.5"]
	for name, group := range map[string]func(*testing.T, *world, *confusion){"sts": w.stsReasons, "identity": w.identityReasons, "kernel": w.oldKernels, "host": w.hosts, "plan": w.plans, "pairs": w.twoCauses} {
		t.Run(name, func(t *testing.T) { group(t, use(t, w), &all) })
	}
	rows := all.injected()
	for _, code := range diagnose.Codes() {
		if !slices.Contains(rows, string(code)) && complete(t) {
			t.Errorf("%s was never injected", code)
		}
	}
	if n := all.offDiagonal(); n > 0 {
		t.Errorf("%d reports are off the diagonal", n)
	}
}

// complete says that no -run leaves parts of the test out.
func complete(t *testing.T) bool {
	t.Helper()
	return !strings.Contains(flag.Lookup("test.run").Value.String(), "/")
}

// try makes conditions one after the other, and returns by container whether Go v2 is said to have credentials.
func (w *world) try(t *testing.T, all *confusion, conditions []injected) map[string]bool {
	t.Helper()
	conditions = slices.DeleteFunc(conditions, func(i injected) bool { return i.once && w.way != container.WayCDI })
	w.startTogether(t, conditions)
	predicted := map[string]bool{}
	for _, i := range conditions {
		id, d := w.examine(t, i)
		if i.before == nil && i.during == nil && len(i.serve) == 0 && len(d.Chains) > 0 {
			predicted[id] = !slices.ContainsFunc(d.Chains, func(c chain) bool { return c.SDK == "go-v2" && c.Source == "nowhere" })
		}
		all.add(trial{i.name, w.name, i.want, d.codes(), d.Seconds})
		i.judge(t, d)
	}
	return predicted
}

// examine makes one condition and asks the doctor.
func (w *world) examine(t *testing.T, i injected) (id string, d diagnosis) {
	t.Helper()
	if i.before != nil {
		defer i.before(t, w)()
	}
	id = w.inject(t, i)
	if i.during != nil {
		defer i.during(t, w, id)()
	}
	d = w.diagnose(t, "--sdk=all", id)
	if i.show && w.way == container.WayCDI || results() != "" {
		text, _ := w.askDoctor(t, "doctor", "--config", w.configPath(), id)
		if i.show {
			t.Logf("taskrole doctor, %s:\n%s", i.name, text)
		}
		keep(t, w.name+", "+i.name, text)
	}
	return id, d
}

// judge compares what was reported with what was injected.
func (i injected) judge(t *testing.T, d diagnosis) {
	t.Helper()
	if d.codes() != i.want {
		t.Errorf("%s: found %q, want exactly %q: %+v", i.name, d.codes(), i.want, d)
	}
	evidence := fmt.Sprintf("%+v", d.Findings)
	for _, want := range append(slices.Clone(i.says), i.evidence) {
		if !strings.Contains(evidence, want) {
			t.Errorf("%s: the findings are %s, want them to contain %q", i.name, evidence, want)
		}
	}
	if i.source != "" && !slices.ContainsFunc(d.Chains, func(c chain) bool { return c.SDK == "go-v2" && c.Source == i.source }) {
		t.Errorf("%s: chains %+v, want Go v2 to have credentials from %s", i.name, d.Chains, i.source)
	}
	if d.Seconds > 5 {
		t.Errorf("%s took %.1f s", i.name, d.Seconds)
	}
	for _, f := range d.Findings {
		if f.What == "" || len(f.Evidence) == 0 || f.Fix == "" || len(f.Commands) == 0 || f.Manual != "doc/doctor.md#"+f.Code {
			t.Errorf("%s: a finding is not complete: %+v", i.name, f)
		}
	}
}

// compare asks what the SDK in the containers, Go v2, found in fact, which it wrote down when it began.
func (w *world) compare(t *testing.T, predicted map[string]bool) {
	t.Helper()
	with := 0
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for id, want := range predicted {
		if want {
			with++
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var text string
			if err := poll(ctx, func() error {
				r, err := w.docker.Exec(ctx, "logs", id)
				if text = string(r.Stdout); err == nil && !strings.Contains(text, "HOSTNAME=") { // the step after the keys
					err = fmt.Errorf("%s: the SDK has not ended its search: %q", id, text)
				}
				return err
			}); err != nil {
				t.Error(err)
				return
			}
			if got := strings.Contains(text, "access_key_id"); got != want {
				t.Errorf("%s: the doctor says that Go v2 has credentials: %v, and Go v2 has: %v", id, want, got)
			}
		})
	}
	all.Wait()
	if with == 0 || with == len(predicted) {
		t.Errorf("of %d predictions %d are the same", len(predicted), with)
	}
	t.Logf("the real SDK was asked about all %d predictions", len(predicted))
}

// restart starts the agent anew, through a command that becomes it.
func (w *world) restart(t *testing.T, through ...string) {
	t.Helper()
	check(t, w.stopAgent(os.Interrupt))
	w.through = through
	check(t, w.startAgent(context.WithoutCancel(t.Context())))
}
