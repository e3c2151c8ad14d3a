package scenario

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// judged is a whole table: as promised, or with some things gone wrong.
func judged(bad bool) []Cell {
	outcomes := good()
	if bad {
		outcomes[Bridge][Taskrole] = answer(hostARN, "a", "b")
		outcomes[HostNetwork][Taskrole] = answer(taskARN, "a")
	}
	var cells []Cell
	for _, where := range rows() {
		for _, column := range []Column{Plain, Taskrole} {
			if _, ok := expectations()[where][column]; ok && (!bad || where != None) {
				cells = append(cells, judge(account(), where, column, outcomes[where][column]))
			}
		}
	}
	return cells
}

func TestTextAndJSON(t *testing.T) {
	for name, bad := range map[string]bool{"good": false, "bad": true} {
		t.Run(name, func(t *testing.T) {
			var text, lines bytes.Buffer
			if err := WriteText(&text, judged(bad)); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.Bytes())
			if err := WriteJSON(&lines, judged(bad)); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", lines.Bytes())
		})
	}
}

func TestEveryJSONLineHasExactlyThePromisedMembers(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, judged(true)); err != nil {
		t.Fatal(err)
	}
	want := []string{"arn", "buckets", "column", "error", "ok", "seconds", "where"}
	for l := range strings.Lines(b.String()) {
		var object map[string]any
		if err := json.Unmarshal([]byte(l), &object); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		var keys []string
		for k := range object {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, want) {
			t.Errorf("members %q, want %q", keys, want)
		}
		if _, isList := object["buckets"].([]any); !isList {
			t.Errorf("buckets is no list: %s", l)
		}
	}
}

func TestWidthCountsColumnsOfATerminal(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "✅ a": 4, "⚠️ a": 4, "–…": 2} {
		if got := width(s); got != want {
			t.Errorf("width(%q) = %d, want %d", s, got, want)
		}
	}
	if got := wrap("aa bb cc dddddddd e", 5); !slices.Equal(got, []string{"aa bb", "cc", "dddddddd", "e"}) {
		t.Errorf("wrap = %q", got)
	}
}
