package main

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const stream = `{"Action":"start","Package":"taskrole/a"}
{"Action":"run","Package":"taskrole/a","Test":"TestX"}
{"Action":"output","Package":"taskrole/a","Test":"TestX","Output":"=== RUN   TestX\n"}
{"Action":"pass","Package":"taskrole/a","Test":"TestX/one","Elapsed":0}
{"Action":"output","Package":"taskrole/a","Test":"TestX/two","Output":"    a_test.go:9: two is wrong\n"}
{"Action":"fail","Package":"taskrole/a","Test":"TestX/two","Elapsed":0}
{"Action":"fail","Package":"taskrole/a","Test":"TestX","Elapsed":0}
{"Action":"output","Package":"taskrole/a","Test":"TestRoot","Output":"    a_test.go:3: skipped: needs root: the user id is 1000\n"}
{"Action":"skip","Package":"taskrole/a","Test":"TestRoot","Elapsed":0}
{"Action":"pass","Package":"taskrole/a","Test":"FuzzY/seed#0","Elapsed":0}
{"Action":"pass","Package":"taskrole/a","Test":"FuzzY/seed#1","Elapsed":0}
{"Action":"pass","Package":"taskrole/a","Test":"FuzzY","Elapsed":0}
{"Action":"fail","Package":"taskrole/a","Elapsed":0.1}
{"Action":"pass","Package":"taskrole/b","Test":"TestAfter/sub","Elapsed":0}
{"Action":"fail","Package":"taskrole/b","Test":"TestAfter","Elapsed":0}
{"Action":"fail","Package":"taskrole/b","Elapsed":0.1}
{"Action":"output","Package":"taskrole/c","Test":"TestPanics","Output":"panic: oh\n"}
{"Action":"output","Package":"taskrole/c","Output":"FAIL taskrole/c\n"}
{"Action":"fail","Package":"taskrole/c","Elapsed":0.1}
{"ImportPath":"taskrole/d [taskrole/d.test]","Action":"build-output","Output":"d.go:1: syntax error\n"}
{"Action":"fail","Package":"taskrole/d","Elapsed":0,"FailedBuild":"taskrole/d [taskrole/d.test]"}
{"Action":"skip","Package":"taskrole/e","Elapsed":0}
`

func tallied(t *testing.T, text string) *tally {
	t.Helper()
	got, err := read(strings.NewReader(text), func(event) {})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLeavesCountsEachTestOnceAndEveryFailure(t *testing.T) {
	got := map[string]string{}
	for n, r := range tallied(t, stream).leaves() {
		got[n.String()] = r
	}
	want := map[string]string{
		"a TestX/one": "pass", "a TestX/two": "fail", // but not TestX, whose failure is that of two
		"a TestRoot": "skip", "a FuzzY": "pass",
		"b TestAfter/sub": "pass", "b TestAfter": "fail", // failed by itself
		"c (the package)": "fail", "d (the package)": "fail",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExplainShowsWhatFailedAndNothingElse(t *testing.T) {
	var out bytes.Buffer
	tallied(t, stream).explain(&out)
	for _, want := range []string{"a_test.go:9: two is wrong", "panic: oh", "d.go:1: syntax error"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "=== RUN") || strings.Contains(out.String(), "needs root") {
		t.Errorf("the output has more than failures:\n%s", out.String())
	}
}

func TestATestThatRanOnOneLevelIsNotSkipped(t *testing.T) {
	x, y := name{"taskrole/a", "TestX"}, name{"taskrole/a", "TestY"}
	got := merge([]map[name]string{{x: "skip", y: "skip"}, {x: "pass"}})
	if want := map[name]string{x: "pass", y: "skip"}; !maps.Equal(got, want) {
		t.Errorf("merge = %v, want %v", got, want)
	}
	part := name{"taskrole/a", "TestX/one"}
	if got, want := merge([]map[name]string{{x: "skip"}, {part: "pass"}}), map[name]string{part: "pass"}; !maps.Equal(got, want) {
		t.Errorf("merge = %v for a test whose parts ran elsewhere, want %v", got, want)
	}
	if got := merge([]map[name]string{{x: "fail"}, {x: "pass"}}); got[x] != "fail" {
		t.Errorf("a failure on one level is %q after the other passed", got[x])
	}
}

func TestReportEndsWithTheCountsAndFailsOnAProblem(t *testing.T) {
	ran, skipped := name{"taskrole/a", "TestX"}, name{"taskrole/a", "TestRoot"}
	unit := outcome{
		level: "unit", results: map[name]string{ran: "pass", skipped: "skip"},
		reasons: map[name]string{skipped: "needs root"}, elapsed: time.Second,
	}
	var out bytes.Buffer
	if code := report(&out, []outcome{unit}); code != 0 {
		t.Errorf("report = %d for a level that only skipped, want 0", code)
	}
	for _, want := range []string{"a TestRoot: needs root\n", "\n1 passed, 0 failed, 1 skipped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	if code := report(&out, []outcome{unit, {level: "netns", problem: "this level cannot run here: needs root"}}); code == 0 {
		t.Error("report = 0 although a level could not run")
	}
	if !strings.Contains(out.String(), "netns: FAILED: this level cannot run here") {
		t.Errorf("the report does not name the level:\n%s", out.String())
	}
}

func TestALevelWithoutTestsFails(t *testing.T) {
	if got := (level{name: "netns"}).judge(count{skipped: 3}, nil); got == "" {
		t.Error("a level that ran nothing passes")
	}
	integration := levels()[2]
	if got := integration.judge(count{passed: 3, skipped: 1}, nil); got == "" {
		t.Error("the integration level passes although it skipped a test")
	}
	if got := integration.judge(count{passed: 3}, nil); got != "" {
		t.Errorf("judge = %q for a level that passed", got)
	}
}

func TestReadSurvivesLinesThatAreNoEvents(t *testing.T) {
	got := tallied(t, "go: something went wrong\n"+stream)
	if diff := cmp.Diff([]string{"go: something went wrong"}, got.lost); diff != "" {
		t.Error(diff)
	}
}
