package manual_test

import (
	"strings"
	"testing"

	"taskrole/internal/manual"
)

func TestPageHasNoLinksAndItsTablesAreLists(t *testing.T) {
	p := manual.Page{Name: "x-y", Section: 5, Short: "a page", Markdown: "## How\n\nSee [the errors](errors.md).\n\n" +
		"| key | meaning | default |\n|---|---|---|\n| `a.b` | One `x \\| y`. | none |\n| `c` | Two | – |\n\n### More\n\nEnd.\n"}
	if got := p.Path(); got != "man5/x-y.5" {
		t.Errorf("Path = %q", got)
	}
	roff := string(p.Roff())
	for _, want := range []string{`.TH "X-Y" "5"`, `x-y \- a page`, ".SH HOW", "See the errors.", ".TP", `One \fBx | y\fR\&. Default: none.`, "Two. Default: –.", ".SS More"} {
		if !strings.Contains(roff, want) {
			t.Errorf("the page has no %q:\n%s", want, roff)
		}
	}
	for _, not := range []string{"errors.md", ".TS", "\x00"} {
		if strings.Contains(roff, not) {
			t.Errorf("the page has %q:\n%s", not, roff)
		}
	}
}
