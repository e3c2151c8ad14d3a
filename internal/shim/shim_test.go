package shim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/cdispec"
	"taskrole/internal/shim"
)

// world is a machine with a runtime, a list of roles and a bundle.
type world struct {
	t       *testing.T
	dir     string
	options shim.Options
	stderr  bytes.Buffer

	executed  string // path of what was executed, or ""
	argv, env []string
}

const plainConfig = `{"ociVersion":"1.2.0","process":{"args":["sh"],"env":["PATH=/bin"],"x":12345678901234567890},"new":{"a":[1.50]}}`

func roleConfig(role string) string {
	return strings.Replace(plainConfig, `"PATH=/bin"`, `"PATH=/bin","TASKROLE=`+role+`"`, 1)
}

func newWorld(t *testing.T, config string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	spec, err := cdispec.Build([]cdispec.Role{{Name: "s3-reader", Region: "eu-central-1"}, {Name: "s3-writer"}},
		cdispec.HookCommand{Path: "/usr/bin/taskrole-runtime", Socket: "/run/taskrole/agent.sock"})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "bundle"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "taskrole.json", string(spec), 0o644)
	w.write(t, "bin/runc", "#!/bin/sh\n", 0o755)
	w.write(t, "self", "#!/bin/sh\n", 0o755)
	if config != "" {
		w.write(t, "bundle/config.json", config, 0o640)
	}
	w.options = shim.Options{
		Args: []string{"taskrole-runtime", "--log", w.path("log.json"), "--log-format", "json", "create", "--bundle", w.path("bundle"), "id"},
		Env:  []string{"PATH=" + w.path("bin"), "TASKROLE_CDI_SPEC=" + w.path("taskrole.json"), "LANG=C"},
		Dir:  w.dir, Self: w.path("self"), Stderr: &w.stderr,
		Now: func() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) },
		Exec: func(path string, argv, env []string) error {
			w.executed, w.argv, w.env = path, argv, env
			return nil
		},
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// set changes the shim's environment.
func (w *world) set(key, value string) {
	w.options.Env = slices.DeleteFunc(w.options.Env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
	w.options.Env = append(w.options.Env, key+"="+value)
}

func TestContainersWithoutARoleAreNotTouched(t *testing.T) {
	w := newWorld(t, plainConfig)
	before, _ := os.Stat(w.path("bundle/config.json"))
	if code := shim.Run(w.options); code != 0 {
		t.Fatalf("exit %d: %s", code, w.stderr.String())
	}
	if w.executed != w.path("bin/runc") {
		t.Errorf("executed %q, want the runtime", w.executed)
	}
	if diff := cmp.Diff(w.options.Args[1:], w.argv[1:]); diff != "" {
		t.Errorf("arguments (-given +executed):\n%s", diff)
	}
	if diff := cmp.Diff(append(slices.Clone(w.options.Env), "TASKROLE_SHIM_PID="+strconv.Itoa(os.Getpid())), w.env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	after, err := os.Stat(w.path("bundle/config.json"))
	if err != nil || !os.SameFile(before, after) || w.read(t, "bundle/config.json") != plainConfig {
		t.Error("config.json was touched")
	}
	if w.stderr.Len() > 0 || w.read(t, "log.json") != "" {
		t.Error("something was said")
	}
}

func TestOtherCommandsAreNotTouched(t *testing.T) {
	for _, args := range [][]string{
		{"--version"}, {}, {"state", "id"}, {"delete", "--force", "id"}, {"exec", "--bundle", "x", "id"}, {"features"},
	} {
		w := newWorld(t, "not even JSON")
		w.set("TASKROLE_CDI_SPEC", "/nonexistent")
		w.options.Dir = w.path("bundle")
		w.options.Args = append([]string{"taskrole-runtime"}, args...)
		if code := shim.Run(w.options); code != 0 || !slices.Equal(w.argv[1:], args) {
			t.Errorf("%q: exit %d, executed %q", args, code, w.argv)
		}
	}
}

func TestContainerWithARoleGetsEnvironmentAndHook(t *testing.T) {
	w := newWorld(t, roleConfig("s3-reader"))
	if code := shim.Run(w.options); code != 0 || w.executed == "" {
		t.Fatalf("exit %d: %s", code, w.stderr.String())
	}
	edited := w.read(t, "bundle/config.json")
	var got struct {
		Process struct{ Env []string }
		Hooks   struct {
			CreateRuntime []struct {
				Path string
				Args []string
			}
		}
	}
	if err := json.Unmarshal([]byte(edited), &got); err != nil {
		t.Fatal(err)
	}
	wantEnv := []string{
		"PATH=/bin", "TASKROLE=s3-reader", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/s3-reader",
		"AWS_REGION=eu-central-1", "AWS_DEFAULT_REGION=eu-central-1",
	}
	slices.Sort(wantEnv)
	slices.Sort(got.Process.Env)
	if diff := cmp.Diff(wantEnv, got.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	wantArgs := []string{
		"taskrole-runtime", "hook", "--role", "s3-reader", "--socket", "/run/taskrole/agent.sock", "--way", "shim",
	}
	if len(got.Hooks.CreateRuntime) != 1 {
		t.Fatalf("hooks = %v, want one", got.Hooks)
	}
	if diff := cmp.Diff(wantArgs, got.Hooks.CreateRuntime[0].Args); diff != "" {
		t.Errorf("hook's arguments (-want +got):\n%s", diff)
	}
	for _, kept := range []string{`"x":12345678901234567890`, `"new":{"a":[1.50]}`} {
		if !strings.Contains(edited, kept) {
			t.Errorf("config.json lost %s: %s", kept, edited)
		}
	}
	info, err := os.Stat(w.path("bundle/config.json"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v, want the old one, 0640", info.Mode(), err)
	}
	if code := shim.Run(w.options); code != 0 || w.read(t, "bundle/config.json") != edited {
		t.Error("the second run changed config.json again")
	}
	if names, _ := os.ReadDir(w.path("bundle")); len(names) != 1 {
		t.Errorf("the bundle holds %v, want only config.json", names)
	}
}

// A checkpoint remembers the process and not its network: without the hook the process would go on with a way to the
// host's own role.
func TestRestoredContainerWithARoleGetsTheHookToo(t *testing.T) {
	w := newWorld(t, roleConfig("s3-reader"))
	w.options.Args = []string{"taskrole-runtime", "restore", "--detach", "--image-path", w.path("image"), "--bundle", w.path("bundle"), "id"}
	if code := shim.Run(w.options); code != 0 || w.executed == "" {
		t.Fatalf("exit %d: %s", code, w.stderr.String())
	}
	if config := w.read(t, "bundle/config.json"); !strings.Contains(config, `"createRuntime"`) {
		t.Errorf("no hook in %s", config)
	}
}

func TestMissingConfigIsTheRuntimesToRefuse(t *testing.T) {
	w := newWorld(t, "")
	if code := shim.Run(w.options); code != 0 || w.executed == "" {
		t.Errorf("exit %d, executed %q: %s", code, w.executed, w.stderr.String())
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		change func(w *world)
		want   string // in the sentence
		code   string
	}{
		"empty_role":     {roleConfig(""), nil, "TASKROLE is set but empty: set it to the name of a role, or start the container without it", "role-unknown"},
		"unknown_role":   {roleConfig("admin"), nil, `no role is called "admin": the roles are s3-reader, s3-writer`, "role-unknown"},
		"escape_in_role": {roleConfig(`\u001b[2J`), nil, "no role is called", "role-unknown"},
		"no_list_of_roles": {
			roleConfig("s3-reader"), func(w *world) { os.Remove(w.path("taskrole.json")) },
			`start it with "taskrole agent" (or systemctl start taskrole), or start the container without a role`, "agent-unreachable",
		},
		"list_of_roles_is_garbage": {
			roleConfig("s3-reader"), func(w *world) { w.write(w.t, "taskrole.json", "{", 0o644) },
			"restart the taskrole agent", "internal",
		},
		"not_json":  {`{"process":{"env":["TASKROLE=s3-reader"`, nil, "config.json", "bundle-invalid"},
		"empty":     {` `, nil, "", "bundle-invalid"},
		"huge":      {`{"process":{"env":["TASKROLE=s3-reader"]},"x":"` + strings.Repeat("x", 9<<20) + `"}`, nil, "too large", "bundle-invalid"},
		"env_types": {`{"process":{"env":{"TASKROLE":"s3-reader"}}}`, nil, "", "bundle-invalid"},
		"a_link": {roleConfig("s3-reader"), func(w *world) {
			os.Rename(w.path("bundle/config.json"), w.path("elsewhere"))
			os.Symlink(w.path("elsewhere"), w.path("bundle/config.json"))
		}, "not a regular file", "bundle-invalid"},
		"a_fifo_as_config": {"", func(w *world) { mkfifo(w.t, w.path("bundle/config.json")) }, "not a regular file", "bundle-invalid"},
		"no_runtime":       {plainConfig, func(w *world) { os.Remove(w.path("bin/runc")) }, "neither runc nor crun", "runtime-unavailable"},
		"runtime_not_executable": {
			plainConfig, func(w *world) { os.Chmod(w.path("bin/runc"), 0o600) },
			"neither runc nor crun", "runtime-unavailable",
		},
		"runtime_is_us": {plainConfig, func(w *world) {
			os.Symlink(w.path("self"), w.path("bin/me"))
			w.set("TASKROLE_OCI_RUNTIME", w.path("bin/me"))
		}, "is taskrole-runtime itself", "runtime-unavailable"},
		"runtime_leads_back":  {plainConfig, func(w *world) { w.set("TASKROLE_SHIM_PID", strconv.Itoa(os.Getpid())) }, "leads back", "runtime-unavailable"},
		"script_leads_back":   {plainConfig, func(w *world) { w.set("TASKROLE_SHIM_PID", strconv.Itoa(os.Getppid())) }, "leads back", "runtime-unavailable"},
		"runtime_by_rel_path": {plainConfig, func(w *world) { w.set("TASKROLE_OCI_RUNTIME", "bin/runc") }, "bin/runc", "runtime-unavailable"},
		"exec_fails": {plainConfig, func(w *world) {
			w.options.Exec = func(string, []string, []string) error { return errors.New("exec format error") }
		}, "exec format error", "runtime-unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.config)
			if c.change != nil {
				c.change(w)
			}
			var first string
			for i := range 2 { // two runs, same result
				w.stderr.Reset()
				if code := shim.Run(w.options); code != 1 || w.executed != "" {
					t.Fatalf("exit %d, executed %q, want a refusal", code, w.executed)
				}
				line := w.stderr.String()
				if !strings.HasPrefix(line, "taskrole: ") || !strings.Contains(line, c.want) || !strings.HasSuffix(line, " ["+c.code+"]\n") ||
					strings.Count(line, "\n") != 1 || strings.Contains(line, "\x1b") {
					t.Errorf("stderr = %q, want one line with %q and %s", line, c.want, c.code)
				}
				if i == 0 {
					first = line
				} else if first != line {
					t.Errorf("second run says %q, the first %q", line, first)
				}
			}
			entries := strings.Split(strings.TrimSuffix(w.read(t, "log.json"), "\n"), "\n")
			if len(entries) != 2 {
				t.Fatalf("log = %q, want one entry a run", entries)
			}
			var entry struct{ Level, Msg, Time string }
			if err := json.Unmarshal([]byte(entries[1]), &entry); err != nil || entry.Level != "error" ||
				entry.Msg+"\n" != first || entry.Time != "2026-02-03T04:05:06Z" {
				t.Errorf("log entry = %q, %v", entries[1], err)
			}
			if c.config != "" && name != "a_link" && w.read(t, "bundle/config.json") != c.config {
				t.Error("config.json was changed")
			}
		})
	}
}

func TestRefusalInTextFormAndWithoutALog(t *testing.T) {
	w := newWorld(t, roleConfig(""))
	w.write(t, "log.txt", "before\n", 0o600)
	w.options.Args = []string{"taskrole-runtime", "--log=log.txt", "create", "-b", "bundle", "id"}
	if code := shim.Run(w.options); code != 1 {
		t.Errorf("exit %d, want 1", code)
	}
	want := "before\n" + `time="2026-02-03T04:05:06Z" level=error msg="taskrole: TASKROLE is set but empty: ` +
		`set it to the name of a role, or start the container without it [role-unknown]"` + "\n"
	if got := w.read(t, "log.txt"); got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	w.stderr.Reset()
	w.options.Args = []string{"taskrole-runtime", "--log=/nonexistent/log", "create", "-b", "bundle", "id"}
	if code := shim.Run(w.options); code != 1 || !strings.Contains(w.stderr.String(), "log file cannot be written") {
		t.Errorf("exit %d, stderr %q", code, w.stderr.String())
	}
}

func TestRuntimeIsFoundBehindOurselves(t *testing.T) {
	w := newWorld(t, plainConfig)
	os.Rename(w.path("bin/runc"), w.path("bin/crun"))
	if err := os.Symlink(w.path("self"), w.path("bin/runc")); err != nil { // we are installed as runc
		t.Fatal(err)
	}
	if code := shim.Run(w.options); code != 0 || w.executed != w.path("bin/crun") {
		t.Errorf("exit %d, executed %q, want crun: %s", code, w.executed, w.stderr.String())
	}
	w = newWorld(t, plainConfig)
	w.write(t, "bin/youki", "", 0o755)
	w.set("TASKROLE_OCI_RUNTIME", "youki")
	if code := shim.Run(w.options); code != 0 || w.executed != w.path("bin/youki") || w.argv[0] != w.path("bin/youki") {
		t.Errorf("exit %d, executed %q as %q, want youki", code, w.executed, w.argv)
	}
	w = newWorld(t, plainConfig)
	w.set("TASKROLE_SHIM_PID", "1") // inherited from an engine's ancestor, not ours
	if os.Getppid() != 1 {
		if code := shim.Run(w.options); code != 0 {
			t.Errorf("exit %d, want 0: %s", code, w.stderr.String())
		}
	}
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
