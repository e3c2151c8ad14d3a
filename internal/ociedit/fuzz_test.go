package ociedit_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"taskrole/internal/ociedit"
)

func decode(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("the result %q is not an object: %v", doc, err)
	}
	return m
}

func list(m map[string]any, parent, name string) []any {
	p, _ := m[parent].(map[string]any)
	l, _ := p[name].([]any)
	return l
}

// strip takes out what Apply may change.
func strip(m map[string]any) map[string]any {
	for parent, name := range map[string]string{"process": "env", "hooks": "createRuntime"} {
		if p, ok := m[parent].(map[string]any); ok {
			delete(p, name)
			if parent == "hooks" && len(p) == 0 {
				delete(m, parent)
			}
		} else if m[parent] == nil {
			delete(m, parent)
		}
	}
	return m
}

func ours(v any) bool {
	s, _ := v.(string)
	k, _, _ := strings.Cut(s, "=")
	return k == "A" || k == "B"
}

// FuzzApply: an input that is not JSON is refused; otherwise all but the two lists survives, what was in them
// survives but for earlier values of our variables, ours are at the end, and a second Apply changes nothing.
func FuzzApply(f *testing.F) {
	for _, s := range []string{
		`{"process":{"env":["A=0","C=1"],"n":1e400},"hooks":{"createRuntime":[{"path":"/x"}],"poststop":null},"l":{"x":[1,2.0]}}`,
		`{"process":{}}`, "{ \"process\" : { } ,\n\"hooks\":{ } }", `{"process":{"env":null},"hooks":null}`,
		`{"process":{"env":["A","=","B=\u0000","\ud800"]}}`, `{"process":{"Env":[]}}`, `[]`, `{}`, `{"process":{"env":[[]]}}`,
		`{"\u0070rocess":{"\"":"}"}}`, `{"process":{"env":["` + "\xff" + `"]}}`, `{"a":1,"a":2,"process":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := ociedit.Apply(in, edits)
		if err != nil {
			return
		}
		if !json.Valid(in) {
			t.Fatalf("Apply took %q, which is not JSON", in)
		}
		if again, err := ociedit.Apply(out, edits); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("Apply twice: %q, %v, once: %q", again, err, out)
		}
		before, after := decode(t, in), decode(t, out)
		env := slices.DeleteFunc(list(before, "process", "env"), ours)
		env = append(env, "A=1", "B=x<y&z")
		if got := list(after, "process", "env"); !reflect.DeepEqual(got, env) {
			t.Fatalf("env of %q is %q, want %q", in, got, env)
		}
		hooks := list(after, "hooks", "createRuntime")
		if len(hooks) == 0 ||
			!reflect.DeepEqual(hooks[len(hooks)-1], any(decode(t, []byte(hookJSON)))) {
			t.Fatalf("hooks of %q are %v: ours is not the last", in, hooks)
		}
		if was := list(before, "hooks", "createRuntime"); len(hooks) > len(was)+1 {
			t.Fatalf("hooks of %q are %v, there were %v", in, hooks, was)
		}
		if !reflect.DeepEqual(strip(before), strip(after)) {
			t.Fatalf("Apply changed more than it should: %q to %q", in, out)
		}
	})
}

// FuzzEnv: what we read after Apply is what we wrote, and reading never fails where Apply did not.
func FuzzEnv(f *testing.F) {
	f.Add([]byte(`{"process":{"env":["A=2","A=3"]}}`))
	f.Add([]byte(`{"process":{}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := ociedit.Apply(in, edits)
		if err != nil {
			return
		}
		if v, ok, err := ociedit.Env(out, "A"); v != "1" || !ok || err != nil {
			t.Fatalf("Env(%q) = %q, %v, %v, want 1", out, v, ok, err)
		}
	})
}
