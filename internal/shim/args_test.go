package shim_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/shim"
)

func TestParseArgsReadsTheRuntimesGrammar(t *testing.T) {
	const cwd = "/cwd/config.json"
	for line, want := range map[string]shim.Parsed{
		"":                                 {"", cwd, "", ""},
		"--version":                        {"", cwd, "", ""},
		"create ID":                        {"create", cwd, "", ""},
		"create --bundle /b ID":            {"create", "/b/config.json", "", ""},
		"create --bundle=/b ID":            {"create", "/b/config.json", "", ""},
		"create -bundle /b ID":             {"create", "/b/config.json", "", ""},
		"create -b /b ID":                  {"create", "/b/config.json", "", ""},
		"create -b=/b ID":                  {"create", "/b/config.json", "", ""},
		"create --b /b ID":                 {"create", "/b/config.json", "", ""},
		"create -b/b ID":                   {"create", "/b/config.json", "", ""},
		"create -b rel/b ID":               {"create", "/cwd/rel/b/config.json", "", ""},
		"create ID -b /b":                  {"create", "/b/config.json", "", ""},
		"create -b /a -b /b ID":            {"create", "/b/config.json", "", ""},
		"create -- -b /b":                  {"create", cwd, "", ""},
		"create -b":                        {"create", cwd, "", ""},
		"create --pid-file -b --bundle b":  {"create", "/cwd/b/config.json", "", ""},
		"create --pid-file /p -b /b ID":    {"create", "/b/config.json", "", ""},
		"create --no-pivot -b /b ID":       {"create", "/b/config.json", "", ""},
		"create --preserve-fds 2 -b /b I":  {"create", "/b/config.json", "", ""},
		"create -b /b -f other.json ID":    {"create", "/b/other.json", "", ""},
		"create -b /b --config=/x.json I":  {"create", "/x.json", "", ""},
		"restore --image-path -b -b /b ID": {"restore", "/b/config.json", "", ""},
		"restore --detach --work-path /w --bundle=/b --manage-cgroups-mode soft ID": {"restore", "/b/config.json", "", ""},
		"run -d -b /b ID":             {"run", "/b/config.json", "", ""},
		"run --detach --bundle=/b ID": {"run", "/b/config.json", "", ""},
		"--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p ID": {"create", "/b/config.json", "/l", "json"},
		"--log=/l --log-format=text create -b /b ID":                                                {"create", "/b/config.json", "/l", "text"},
		"-log /l -debug create -b /b ID":                                                            {"create", "/b/config.json", "/l", ""},
		"--log create state ID":                                                                     {"state", cwd, "create", ""},
		"--root create delete ID":                                                                   {"delete", cwd, "", ""},
		"--new-flag value create -b /b":                                                             {"create", "/b/config.json", "", ""},
		"--new-flag create -b /b ID":                                                                {"create", "/b/config.json", "", ""},
		"--new-flag=create kill ID":                                                                 {"kill", cwd, "", ""},
		"-- create -b /b ID":                                                                        {"create", "/b/config.json", "", ""},
		"exec -b /b create":                                                                         {"exec", cwd, "", ""},
		"state create":                                                                              {"state", cwd, "", ""},
		"start --bundle /b create":                                                                  {"start", cwd, "", ""},
	} {
		if diff := cmp.Diff(want, shim.ParseArgs(strings.Fields(line))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

// Whatever the words: nothing panics, and a create or run that is there as the first word that is no flag, with only
// flags we know before it, is found.
func FuzzParseArgs(f *testing.F) {
	for _, s := range []string{
		"--log\x00/l\x00create\x00--bundle\x00/b\x00id", "run\x00-b=/b\x00x", "--\x00create", "-b\x00--bundle", "create\x00-b", "\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args := strings.Split(s, "\x00")
		got := shim.ParseArgs(args)
		if !filepath.IsAbs(got.Config) {
			t.Errorf("ParseArgs(%q): configuration %q is not absolute", args, got.Config)
		}
		with := shim.ParseArgs(append([]string{"--log", "/l", "--debug", "--root=/r", "create", "--bundle", "/b", "id", "--"}, args...))
		if diff := cmp.Diff(shim.Parsed{"create", "/b/config.json", "/l", ""}, with); diff != "" {
			t.Errorf("words behind -- matter: %s", diff)
		}
		again := shim.ParseArgs(append([]string{"--debug", "--systemd-cgroup"}, args...))
		if got.Name == "create" && again.Name != "create" && args[0] != "" {
			t.Errorf("ParseArgs(%q) finds create, and %q behind two flags", args, again.Name)
		}
	})
}
