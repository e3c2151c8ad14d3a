package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
)

// event is one line of go test -json: see `go doc test2json`, and cmd/go's build events, which carry ImportPath.
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
	FailedBuild                   string
}

// name is one test of one package.
type name struct{ pkg, test string }

func (n name) String() string {
	return strings.TrimSpace(strings.TrimPrefix(n.pkg, "taskrole/") + " " + n.test)
}

// ancestors are the tests that n is a part of.
func (n name) ancestors() iter.Seq[name] {
	return func(yield func(name) bool) {
		for i, c := range n.test {
			if c == '/' && !yield(name{n.pkg, n.test[:i]}) {
				return
			}
		}
	}
}

// tally is what one run of go test did.
type tally struct {
	result map[name]string   // pass, fail or skip, of every test and subtest
	output map[name][]string // what each printed, without go test's own lines
	broken map[string]string // packages that failed without a failing test, with what they printed
	lost   []string          // lines that are no events: go test itself complains so
}

// read consumes events until r ends. done is called for every package and test that ended, for progress.
func read(r io.Reader, done func(event)) (*tally, error) {
	t := &tally{result: map[name]string{}, output: map[name][]string{}, broken: map[string]string{}}
	printed, build, failed := map[string]string{}, map[string]string{}, map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // a panic of a large test is one long story, though in short lines
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.lost = append(t.lost, lines.Text())
			continue
		}
		at := name{e.Package, e.Test}
		switch {
		case e.Action == "build-output":
			build[e.ImportPath] += e.Output
		case e.Action == "output" && e.Test == "":
			printed[e.Package] += e.Output
		case e.Action == "output":
			if !noise(e.Output) {
				t.output[at] = append(t.output[at], e.Output)
			}
		case e.Test == "" && e.Action == "fail":
			failed[e.Package] = true
			printed[e.Package] = build[e.FailedBuild] + printed[e.Package]
			done(e)
		case e.Test == "" && (e.Action == "pass" || e.Action == "skip"):
			done(e)
		case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
			t.result[at] = e.Action
			done(e)
		}
	}
	for n, r := range t.result {
		if r == "fail" {
			delete(failed, n.pkg)
		}
	}
	for pkg := range failed {
		t.broken[pkg] = printed[pkg] + strings.Join(t.unfinished(pkg), "")
	}
	return t, lines.Err()
}

// noise says whether a line is go test's frame around a test's own words.
func noise(line string) bool {
	line = strings.TrimSpace(line)
	for _, frame := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME", "--- PASS", "--- SKIP", "--- FAIL"} {
		if strings.HasPrefix(line, frame) {
			return true
		}
	}
	return false
}

// unfinished is what the tests printed that had no result when their package died: a panic, or a time-out.
func (t *tally) unfinished(pkg string) []string {
	var out []string
	for n, lines := range t.output {
		if n.pkg == pkg && t.result[n] == "" {
			out = append(out, "in "+n.test+":\n")
			out = append(out, lines...)
		}
	}
	return out
}

// leaves returns the results of the tests that have no subtests. A test that failed by itself, after all its
// subtests passed, counts too; and a fuzz test counts once, however many seeds it has.
func (t *tally) leaves() map[name]string {
	parent := map[name]bool{}    // has subtests
	explained := map[name]bool{} // and one of them has the parent's failure
	for n, r := range t.result {
		for up := range n.ancestors() {
			parent[up] = true
			explained[up] = explained[up] || r == "fail"
		}
	}
	leaves := map[name]string{}
	for n, r := range t.result {
		fuzz := strings.HasPrefix(n.test, "Fuzz")
		switch {
		case fuzz && strings.Contains(n.test, "/"):
		case fuzz, !parent[n], r == "fail" && !explained[n]:
			leaves[n] = r
		}
	}
	for pkg := range t.broken {
		leaves[name{pkg, "(the package)"}] = "fail"
	}
	return leaves
}

// reason is the sentence a skipped test gave.
func (t *tally) reason(n name) string {
	for _, line := range t.output[n] {
		if _, why, ok := strings.Cut(line, ": "); ok && strings.Contains(line, ".go:") {
			return strings.TrimPrefix(strings.TrimSpace(why), "skipped: ")
		}
	}
	return "it gave no reason"
}

// explain writes the output of everything that failed.
func (t *tally) explain(w io.Writer) {
	for _, line := range t.lost {
		fmt.Fprintln(w, line)
	}
	for _, pkg := range slices.Sorted(maps.Keys(t.broken)) {
		fmt.Fprintf(w, "\n--- FAIL %s\n%s", strings.TrimPrefix(pkg, "taskrole/"), t.broken[pkg])
	}
	for _, n := range slices.SortedFunc(maps.Keys(t.result), compare) {
		if t.result[n] == "fail" && len(t.output[n]) > 0 {
			fmt.Fprintf(w, "\n--- FAIL %s\n%s", n, strings.Join(t.output[n], ""))
		}
	}
}

func compare(a, b name) int { return strings.Compare(a.pkg+" "+a.test, b.pkg+" "+b.test) }

// count is how many tests ended how.
type count struct{ passed, failed, skipped int }

func (c *count) add(result string) {
	switch result {
	case "pass":
		c.passed++
	case "fail":
		c.failed++
	case "skip":
		c.skipped++
	}
}

// merge joins the results of several levels: one failure anywhere is a failure, and a test is skipped only if neither
// it nor a part of it ran anywhere.
func merge(levels []map[name]string) map[name]string {
	rank := map[string]int{"": 0, "skip": 1, "pass": 2, "fail": 3}
	all := map[name]string{}
	for _, level := range levels {
		for n, r := range level {
			if rank[r] > rank[all[n]] {
				all[n] = r
			}
		}
	}
	ran := map[name]bool{}
	for n := range all {
		for up := range n.ancestors() {
			ran[up] = true
		}
	}
	maps.DeleteFunc(all, func(n name, r string) bool { return r == "skip" && ran[n] })
	return all
}

func counted(results map[name]string) count {
	var c count
	for _, r := range results {
		c.add(r)
	}
	return c
}
