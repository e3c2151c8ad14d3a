package ociedit_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"taskrole/internal/fault"
	"taskrole/internal/ociedit"
)

var edits = ociedit.Edits{
	Env:   []string{"A=1", "B=x<y&z"},
	Hooks: []ociedit.Hook{{Path: "/bin/h", Args: []string{"h", "hook"}, Timeout: 30}},
}

const hookJSON = `{"path":"/bin/h","args":["h","hook"],"timeout":30}`

func TestApplyChangesOnlyWhatItMust(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing_there": {
			`{"process":{}}`,
			`{"process":{"env":["A=1","B=x<y&z"]},"hooks":{"createRuntime":[` + hookJSON + `]}}`,
		},
		"null_members": {
			`{"hooks":null,"process":{"env":null,"x":1}}`,
			`{"hooks":{"createRuntime":[` + hookJSON + `]},"process":{"env":["A=1","B=x<y&z"],"x":1}}`,
		},
		"null_hook_list": {
			`{"hooks":{"createRuntime":null,"poststop":[]},"process":{"env":[]}}`,
			`{"hooks":{"createRuntime":[` + hookJSON + `],"poststop":[]},"process":{"env":["A=1","B=x<y&z"]}}`,
		},
		"earlier_values_go": {
			`{"process":{"env":["A=0","AA=2","A","\u0041=3","B=","C=4"]},"hooks":{"createRuntime":[]}}`,
			`{"process":{"env":["AA=2","C=4","A=1","B=x<y&z"]},"hooks":{"createRuntime":[` + hookJSON + `]}}`,
		},
		"unknown_members_order_and_numbers": {
			`{"z":1.50e+3,"process":{"n":18446744073709551617,"env":["\u0043=\/"],"é":"\ud83d\ude00"},"a":{"b":[1,{}]},"z":2}`,
			`{"z":1.50e+3,"process":{"n":18446744073709551617,"env":["\u0043=\/","A=1","B=x<y&z"],"é":"\ud83d\ude00"},"a":{"b":[1,{}]},"z":2,"hooks":{"createRuntime":[` + hookJSON + `]}}`,
		},
		"white_space": {
			"\n{\n  \"process\" : {\n    \"cwd\": \"/\"\n  }\n}\n",
			"\n{\n  \"process\" : {\n    \"cwd\": \"/\",\"env\":[\"A=1\",\"B=x<y&z\"]\n  },\"hooks\":{\"createRuntime\":[" + hookJSON + "]}\n}\n",
		},
		"hooks_of_others_stay_first": {
			`{"process":{"env":[]},"hooks":{"createRuntime":[` + hookJSON + `, {"path":"/bin/h","args":["h","hook"]} ,{"path":"/o"}]}}`,
			`{"process":{"env":["A=1","B=x<y&z"]},"hooks":{"createRuntime":[{"path":"/bin/h","args":["h","hook"]},{"path":"/o"},` + hookJSON + `]}}`,
		},
		"names_inside_strings_and_other_objects": {
			`{"annotations":{"process":"{\"env\":[","env":"]}"},"process":{"args":["\\\"","env"],"env":["X=\"]"]}}`,
			`{"annotations":{"process":"{\"env\":[","env":"]}"},"process":{"args":["\\\"","env"],"env":["X=\"]","A=1","B=x<y&z"]},"hooks":{"createRuntime":[` + hookJSON + `]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ociedit.Apply([]byte(c.in), edits)
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Errorf("Apply (-want +got):\n%s", d)
			}
			again, err := ociedit.Apply(got, edits)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("a second Apply changed it to %s, %v", again, err)
			}
		})
	}
}

func TestApplyOfNothingChangesNothing(t *testing.T) {
	in := `{ "ociVersion":"1.0.2" }`
	got, err := ociedit.Apply([]byte(in), ociedit.Edits{})
	if err != nil || string(got) != in {
		t.Errorf("Apply = %s, %v, want the input", got, err)
	}
}

func TestApplyRefusesWhatIsNoConfiguration(t *testing.T) {
	for name, in := range map[string]string{
		"empty":               ``,
		"truncated":           `{"process":{"env":["A`,
		"not_json":            `process: {}`,
		"two_documents":       `{"process":{}}{"process":{}}`,
		"not_an_object":       `["process"]`,
		"null":                `null`,
		"byte_order_mark":     "\xef\xbb\xbf{\"process\":{}}",
		"no_process":          `{"ociVersion":"1.0.2"}`,
		"null_process":        `{"process":null}`,
		"process_is_a_list":   `{"process":[]}`,
		"env_is_an_object":    `{"process":{"env":{}}}`,
		"env_is_a_string":     `{"process":{"env":"A=1"}}`,
		"env_holds_a_number":  `{"process":{"env":["A=1",2]}}`,
		"env_holds_null":      `{"process":{"env":[null]}}`,
		"hooks_is_a_list":     `{"process":{},"hooks":[]}`,
		"hook_list_is_object": `{"process":{},"hooks":{"createRuntime":{}}}`,
		"too_deep":            `{"process":{},"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
		"absurdly_deep":       `{"process":{},"x":` + strings.Repeat(`{"a":`, 1<<20),
		"huge":                `{"process":{}}` + strings.Repeat(" ", ociedit.MaxSize),
		"huge_afterwards":     `{"process":{}` + strings.Repeat(" ", ociedit.MaxSize-14) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ociedit.Apply([]byte(in), edits)
			if fault.CodeOf(err) != fault.BundleInvalid || got != nil {
				t.Errorf("Apply = %.60q, %v, want a fault bundle-invalid", got, err)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("the message has %d characters", len(err.Error()))
			}
		})
	}
}

func TestApplyRefusesEditsThatCannotBeWritten(t *testing.T) {
	for name, e := range map[string]ociedit.Edits{
		"no_equals_sign":    {Env: []string{"A"}},
		"no_key":            {Env: []string{"=1"}},
		"same_key_twice":    {Env: []string{"A=1", "A=2"}},
		"nul":               {Env: []string{"A=\x00"}},
		"not_utf8":          {Env: []string{"A=\xff"}},
		"relative_hook":     {Hooks: []ociedit.Hook{{Path: "h"}}},
		"negative_time_out": {Hooks: []ociedit.Hook{{Path: "/h", Timeout: -1}}},
		"hook_args_no_utf8": {Hooks: []ociedit.Hook{{Path: "/h", Args: []string{"\xff"}}}},
		"same_hook_twice":   {Hooks: []ociedit.Hook{{Path: "/h"}, {Path: "/h"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ociedit.Apply([]byte(`{"process":{}}`), e); err == nil {
				t.Errorf("Apply = %s, want an error", got)
			}
		})
	}
}

func TestEnv(t *testing.T) {
	for name, c := range map[string]struct {
		in, want string
		found    bool
		bad      bool
	}{
		"there":            {in: `{"process":{"env":["PATH=/","TASKROLE=a=b"]}}`, want: "a=b", found: true},
		"empty":            {in: `{"process":{"env":["TASKROLE="]}}`, found: true},
		"same_value_twice": {in: `{"process":{"env":["TASKROLE=a","TASKROLE=a"]}}`, want: "a", found: true},
		"escaped":          {in: `{"process":{"env":["\u0054ASKROLE\u003da"]}}`, want: "a", found: true},
		"absent":           {in: `{"process":{"env":["XTASKROLE=a","TASKROLE","taskrole=a"]}}`},
		"no_process":       {in: `{}`},
		"null_env":         {in: `{"process":{"env":null}}`},
		"two_values":       {in: `{"process":{"env":["TASKROLE=a","TASKROLE=b"]}}`, bad: true},
		"not_json":         {in: `{`, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, found, err := ociedit.Env([]byte(c.in), "TASKROLE")
			if got != c.want || found != c.found || (err != nil) != c.bad {
				t.Errorf("Env = %q, %v, %v, want %q, %v, error %v", got, found, err, c.want, c.found, c.bad)
			}
		})
	}
}

// runc decodes into these very structs.
func TestApplyIsWhatTheRuntimeReads(t *testing.T) {
	got, err := ociedit.Apply([]byte(`{"ociVersion":"1.0.2","process":{"cwd":"/","env":["A=0"],"args":["sh"]}}`), edits)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(got, &s); err != nil {
		t.Fatal(err)
	}
	timeout := 30
	want := []specs.Hook{{Path: "/bin/h", Args: []string{"h", "hook"}, Timeout: &timeout}}
	if d := cmp.Diff(want, s.Hooks.CreateRuntime); d != "" {
		t.Errorf("hooks (-want +got):\n%s", d)
	}
	if d := cmp.Diff(edits.Env, s.Process.Env); d != "" {
		t.Errorf("env (-want +got):\n%s", d)
	}
}
