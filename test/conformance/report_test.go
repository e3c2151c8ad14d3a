package conformance_test

import (
	"strings"
	"testing"
	"time"

	"taskrole/test/conformance"
)

func sample() conformance.Report {
	good := conformance.Cell{
		Client: "boto3", SDK: "boto3 1.2", Path: conformance.ECS, Engine: "docker-28.5",
		Found: true, Identity: true, Rotated: true, First: 42 * time.Millisecond,
	}
	old := good
	old.Engine, old.Rotated, old.Error = "docker-20.10", false, "round 2: <expired> | gone"
	return conformance.Report{
		Date: "2026-01-02", Kernel: "6.18", Engines: []string{"docker-20.10", "docker-28.5"}, Clients: []string{"boto3", "php"},
		Cells: []conformance.Cell{good, old, {Client: "php", Path: conformance.ECS, Engine: "docker-28.5", NotRun: "no package"}},
		Verdicts: []conformance.Verdict{{
			Environment: "static keys", Want: map[string]string{"boto3": "env", "php": "env"}, Got: map[string]string{"boto3": "file"},
		}},
		Tokens: []conformance.Verdict{{
			Environment: "401", Want: map[string]string{"boto3": "v1"}, Got: map[string]string{"boto3": "v1"},
			Took: map[string]time.Duration{"boto3": 3456 * time.Millisecond},
		}},
		Outage: map[string]string{"boto3": "it <expired>"},
	}
}

func TestNotRunIsNeverPassed(t *testing.T) {
	r := sample()
	if passed, failed, notRun := r.Count(); passed != 1 || failed != 1 || notRun != 1 {
		t.Errorf("%d passed, %d failed, %d not run, want 1 of each", passed, failed, notRun)
	}
	if (conformance.Cell{Found: true, Identity: true, Rotated: true, NotRun: "no toolchain"}).Passed() {
		t.Error("a cell that was not run has passed")
	}
}

func TestTextHasOneLineForEachClientAndPath(t *testing.T) {
	var b strings.Builder
	if err := sample().Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"boto3   ECS   yes      yes       yes, NO on docker-20.10  42 ms", "php     ECS   not run  not run   not run",
		"boto3, ECS: failed on docker-20.10: round 2", "php, ECS: not run: no package",
		"static keys: boto3: file, the contract says env", "1 passed, 1 failed, 1 not run\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, b.String())
		}
	}
}

func TestMarkdownKeepsWhatClientsSayFromBeingMarkup(t *testing.T) {
	var b strings.Builder
	if err := sample().Markdown(&b, "## Seen\n\nWords.\n"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| boto3 1.2 | ECS | yes | yes | yes, NO on docker-20.10 | 42 ms | 42 ms |", `&lt;expired> \| gone`,
		"| static keys | **file** (said: env) | not run |",
		"| the answer to PUT | boto3 |", "| 401 | v1 (3.5 s) |", "| boto3 | it &lt;expired> |", "## Seen\n\nWords.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, b.String())
		}
	}
}
