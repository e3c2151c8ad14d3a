package ociedit_test

import (
	"testing"

	"taskrole/internal/fault"
	"taskrole/internal/ociedit"
)

// A file that two decoders read differently could show us one environment and the runtime another.
func TestAmbiguousMembersAreRefused(t *testing.T) {
	for name, in := range map[string]string{
		"process_twice":                   `{"process":{"env":[]},"process":{"env":["A=evil"]}}`,
		"process_in_other_case":           `{"process":{"env":[]},"Process":{"env":["A=evil"]}}`,
		"only_in_other_case":              `{"PROCESS":{"env":[]}}`,
		"env_twice":                       `{"process":{"env":[],"env":["A=evil"]}}`,
		"env_in_other_case":               `{"process":{"env":[],"ENV":["A=evil"]}}`,
		"null_env_after":                  `{"process":{"env":[],"env":null}}`,
		"escaped_name":                    `{"process":{"env":[],"\u0065nv":["A=evil"]}}`,
		"long_s_folds_to_s":               `{"process":{"env":[]},"proce\u017fs":{"env":["A=evil"]}}`,
		"kelvin_sign_folds_to_k":          `{"process":{"env":[]},"hoo\u212as":{"createRuntime":[]}}`,
		"hooks_twice":                     `{"process":{"env":[]},"hooks":{},"hooks":{"createRuntime":[]}}`,
		"create_runtime_twice":            `{"process":{"env":[]},"hooks":{"createRuntime":[],"createRuntime":[]}}`,
		"create_runtime_in_another_case":  `{"process":{"env":[]},"hooks":{"createruntime":[]}}`,
		"hooks_other_case_beside_nothing": `{"process":{"env":[]},"Hooks":{"createRuntime":[]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ociedit.Apply([]byte(in), edits); fault.CodeOf(err) != fault.BundleInvalid {
				t.Errorf("Apply = %s, %v, want a fault bundle-invalid", got, err)
			}
		})
	}
}

func TestEnvRefusesAmbiguousMembers(t *testing.T) {
	for _, in := range []string{
		`{"process":{"env":["TASKROLE=a"]},"process":{"env":["TASKROLE=b"]}}`,
		`{"process":{"env":["TASKROLE=a"],"Env":["TASKROLE=b"]}}`,
	} {
		if got, _, err := ociedit.Env([]byte(in), "TASKROLE"); fault.CodeOf(err) != fault.BundleInvalid {
			t.Errorf("Env(%s) = %q, %v, want a fault bundle-invalid", in, got, err)
		}
	}
}
