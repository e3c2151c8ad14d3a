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

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"taskrole/internal/fault"
	"taskrole/internal/jsontext"
)

// MaxSize bounds the file: engines write some 10 kB, and the kernel takes at most 6 MiB of arguments and environment.
const MaxSize = 8 << 20

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
func Apply(configJSON []byte, e Edits) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, invalid(err)
	}
	if err := jsontext.Check(configJSON, MaxSize); err != nil {
		return nil, invalid(err)
	}
	out, err := addEnv(configJSON, e.Env)
	if err != nil {
		return nil, invalid(err)
	}
	if out, err = addHooks(out, e.Hooks); err != nil {
		return nil, invalid(err)
	}
	if len(out) > MaxSize {
		return nil, invalid(fmt.Errorf("it would have %d bytes after the edits, and at most %d are allowed", len(out), MaxSize))
	}
	return out, nil
}

// Env returns the value of the variable in process.env, and whether it is there. Two different values are an error:
// which one a process gets depends on its C library. The error is a fault bundle-invalid.
func Env(configJSON []byte, key string) (string, bool, error) {
	if err := jsontext.Check(configJSON, MaxSize); err != nil {
		return "", false, invalid(err)
	}
	entries, err := environment(configJSON)
	if err != nil {
		return "", false, invalid(err)
	}
	value, found := "", false
	for _, e := range entries {
		k, v, ok := strings.Cut(e.text, "=")
		if k != key || !ok {
			continue
		}
		if found && v != value {
			return "", false, invalid(fmt.Errorf("process.env gives %s two different values", jsontext.Quote(key)))
		}
		value, found = v, true
	}
	return value, found, nil
}

// addEnv puts the variables at the end of process.env.
func addEnv(doc []byte, env []string) ([]byte, error) {
	if len(env) == 0 {
		return doc, nil
	}
	old, err := environment(doc)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, o := range old {
		if k, _, _ := strings.Cut(o.text, "="); !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, k+"=") }) {
			list = append(list, o.raw)
		}
	}
	for _, e := range env {
		raw, err := encode(e)
		if err != nil {
			return nil, err
		}
		list = append(list, raw)
	}
	process, err := jsontext.Find(doc, 0, "process")
	if err != nil {
		return nil, err
	}
	if !process.Is(doc, '{') {
		return nil, errors.New("it has no process that could get an environment")
	}
	return jsontext.Put(doc, process.Start, "env", array(list))
}

type entry struct {
	raw  []byte
	text string
}

// environment returns process.env, empty where there is none.
func environment(doc []byte) ([]entry, error) {
	env, err := jsontext.Descend(doc, '[', "process", "env")
	if err != nil || !env.Found {
		return nil, err
	}
	var entries []entry
	for _, raw := range jsontext.Elements(doc, env.Start) {
		if raw[0] != '"' {
			return nil, errors.New("process.env holds something that is not a string")
		}
		entries = append(entries, entry{raw: raw, text: jsontext.Text(raw)})
	}
	return entries, nil
}

// addHooks puts the hooks at the end of hooks.createRuntime.
func addHooks(doc []byte, hooks []Hook) ([]byte, error) {
	if len(hooks) == 0 {
		return doc, nil
	}
	old, err := jsontext.Descend(doc, '[', "hooks", "createRuntime")
	if err != nil {
		return nil, err
	}
	var list [][]byte
	if old.Found {
		for _, raw := range jsontext.Elements(doc, old.Start) {
			if !slices.ContainsFunc(hooks, func(h Hook) bool { return h.is(raw) }) {
				list = append(list, raw)
			}
		}
	}
	for _, h := range hooks {
		raw, err := encode(h)
		if err != nil {
			return nil, err
		}
		list = append(list, raw)
	}
	parent, err := jsontext.Descend(doc, '{', "hooks")
	if err != nil {
		return nil, err
	}
	if !parent.Found {
		if doc, err = jsontext.Put(doc, 0, "hooks", []byte("{}")); err != nil {
			return nil, err
		}
		if parent, err = jsontext.Descend(doc, '{', "hooks"); err != nil {
			return nil, err
		}
	}
	return jsontext.Put(doc, parent.Start, "createRuntime", array(list))
}

// is says whether raw is this very hook and nothing more.
func (h Hook) is(raw []byte) bool {
	var o Hook
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(&o) == nil && o.Path == h.Path && o.Timeout == h.Timeout &&
		slices.Equal(o.Args, h.Args) && slices.Equal(o.Env, h.Env)
}

// check finds edits that could not be written, or that would not be found again by the next Apply.
func (e Edits) check() error {
	var all []string
	seen := map[string]bool{}
	for _, v := range e.Env {
		k, _, ok := strings.Cut(v, "=")
		if !ok || k == "" || seen[k] {
			return fmt.Errorf("the variable to add, %s, is not KEY=VALUE or is given twice", jsontext.Quote(k))
		}
		seen[k] = true
		all = append(all, v)
	}
	for i, h := range e.Hooks {
		if !strings.HasPrefix(h.Path, "/") || h.Timeout < 0 {
			return fmt.Errorf("the hook to add, %s, needs an absolute path and no negative time-out", jsontext.Quote(h.Path))
		}
		if slices.ContainsFunc(e.Hooks[:i], func(o Hook) bool {
			return o.Path == h.Path && o.Timeout == h.Timeout && slices.Equal(o.Args, h.Args) && slices.Equal(o.Env, h.Env)
		}) {
			return fmt.Errorf("the hook to add, %s, is given twice", jsontext.Quote(h.Path))
		}
		all = append(append(append(all, h.Path), h.Args...), h.Env...)
	}
	for _, s := range all {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%s is not text that a program can be given", jsontext.Quote(s))
		}
	}
	return nil
}

// encode writes v as JSON and leaves <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func array(list [][]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(list, []byte(",")), []byte("]"))
}

func invalid(err error) error {
	return fault.Wrap(err, fault.BundleInvalid, "config.json of the bundle cannot be edited: "+err.Error(),
		"the container was not started; look at what made this bundle")
}
