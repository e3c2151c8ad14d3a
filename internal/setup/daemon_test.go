package setup_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"taskrole/internal/setup"
)

const runtimePath = "/usr/local/bin/taskrole-runtime"

// daemonJSON draws a daemon.json as people and tools write them: any members in any order, any white space.
func daemonJSON(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", " ", "\n", "\n    ", "\t", "\r\n  "})
	ws := func() string { return space.Draw(t, "space") }
	object := func(members map[string]string) string {
		names := rapid.Permutation(sorted(members)).Draw(t, "order")
		var list []string
		for _, name := range names {
			list = append(list, ws()+`"`+name+`"`+ws()+":"+ws()+members[name]+ws())
		}
		if len(list) == 0 {
			return "{" + ws() + "}"
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	members := map[string]string{}
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"debug", "log-opts", "hosts", "dns", "mtu", "ünï", `\"q\"`}), rapid.ID).Draw(t, "names") {
		members[name] = rapid.SampledFrom([]string{"true", "1e400", `"}],{"`, `["a", {"b":  null}]`, "{}", `{"runtimes": {"taskrole": 1}}`, "null"}).Draw(t, "value")
	}
	part := func(name string, inner map[string]string) {
		switch rapid.IntRange(0, 3).Draw(t, name) {
		case 0:
		case 1:
			members[name] = "null"
		default:
			members[name] = object(inner)
		}
	}
	runtimes := map[string]string{}
	if rapid.Bool().Draw(t, "crun") {
		runtimes["crun"] = `{"path": "/usr/bin/crun"}`
	}
	if rapid.Bool().Draw(t, "old") {
		runtimes["taskrole"] = `{ "path":"/old/taskrole-runtime", "runtimeArgs" : [] }`
	}
	part("runtimes", runtimes)
	features := map[string]string{}
	if rapid.Bool().Draw(t, "buildkit") {
		features["buildkit"] = "true"
	}
	if rapid.Bool().Draw(t, "cdi") {
		features["cdi"] = rapid.SampledFrom([]string{"true", "false"}).Draw(t, "switch")
	}
	part("features", features)
	return ws() + object(members) + ws()
}

func sorted(m map[string]string) []string {
	var names []string
	for _, name := range []string{"debug", "log-opts", "hosts", "dns", "mtu", "ünï", `\"q\"`, "runtimes", "features", "crun", "taskrole", "buildkit", "cdi"} {
		if _, ok := m[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

func decode(t *rapid.T, doc []byte) map[string]any {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, doc)
	}
	return v
}

func TestMergeAddsTheRuntimeAndUndoIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := daemonJSON(t)
		cdi := rapid.Bool().Draw(t, "with cdi")
		after, edits, err := setup.Merge([]byte(before), runtimePath, cdi)
		if err != nil {
			t.Fatalf("Merge(%s) = %v", before, err)
		}
		// It is there, and everything else means what it meant.
		want := decode(t, []byte(before))
		child := func(name string) map[string]any {
			c, _ := want[name].(map[string]any)
			c = maps.Clone(c)
			if c == nil {
				c = map[string]any{}
			}
			want[name] = c
			return c
		}
		child("runtimes")["taskrole"] = map[string]any{"path": runtimePath}
		if cdi {
			child("features")["cdi"] = true
		}
		if d := cmp.Diff(want, decode(t, after)); d != "" {
			t.Fatalf("Merge(%s) = %s (-want +got):\n%s", before, after, d)
		}
		// Once is enough.
		if again, more, err := setup.Merge(after, runtimePath, cdi); err != nil || len(more) > 0 || !bytes.Equal(again, after) {
			t.Fatalf("a second Merge(%s) = %s, %v, %v", after, again, more, err)
		}
		back, left, err := setup.Undo(after, edits)
		if err != nil || len(left) > 0 || string(back) != before {
			t.Fatalf("Undo(%s) = %q, %v, %v; want %q", after, back, left, err, before)
		}
	})
}

func TestUndoTouchesOnlyWhatIsStillOurs(t *testing.T) {
	doc, edits, err := setup.Merge([]byte(`{"features": {"cdi": false}}`), runtimePath, true)
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Replace(string(doc), runtimePath, "/theirs", 1)
	got, left, err := setup.Undo([]byte(theirs), edits)
	want := `{"features": {"cdi": false},"runtimes": {"taskrole": {"path": "/theirs"}}}`
	if err != nil || string(got) != want || !cmp.Equal(left, []string{"runtimes.taskrole"}) {
		t.Errorf("Undo = %s, %q, %v; want %s", got, left, err, want)
	}
	for _, gone := range []string{`{}`, `{"runtimes": null, "features": {}}`, ""} {
		if got, left, err := setup.Undo([]byte(gone), edits); err != nil || len(left) > 0 || string(got) != gone {
			t.Errorf("Undo(%q) = %q, %q, %v", gone, got, left, err)
		}
	}
}
