package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"taskrole/internal/cdispec"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"taskrole-runtime": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", e.Getenv("WORK")+"/bin:"+e.Getenv("PATH"))
			e.Setenv("TASKROLE_CDI_SPEC", e.Getenv("WORK")+"/taskrole.json")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"cdi-spec": cdiSpec, "state": writeState, "size": grow,
		},
	})
}

// cdiSpec SOCKET writes taskrole.json, as the agent does.
func cdiSpec(ts *testscript.TestScript, _ bool, args []string) {
	spec, err := cdispec.Build([]cdispec.Role{{Name: "s3-reader", Region: "eu-central-1"}, {Name: "s3-writer"}},
		cdispec.HookCommand{Path: "/usr/bin/taskrole-runtime", Socket: args[0]})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("taskrole.json"), spec, 0o600))
}

// writeState FILE alive|dead|NUMBER writes the OCI state of a container with such a process.
func writeState(ts *testscript.TestScript, _ bool, args []string) {
	pid := os.Getpid()
	switch args[1] {
	case "alive":
	case "dead":
		p, err := os.StartProcess("/proc/self/exe", []string{"x", "-test.run=^$"}, &os.ProcAttr{})
		ts.Check(err)
		_, err = p.Wait()
		ts.Check(err)
		pid = p.Pid
	default:
		var err error
		pid, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	state := fmt.Sprintf(`{"ociVersion":"1.2.0","id":%q,"status":"created","pid":%d,"bundle":"/run/b"}`,
		strings.Repeat("3f", 32), pid)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(state), 0o600))
}

// grow FILE BYTES appends that many.
func grow(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	text := ts.ReadFile(args[0]) + strings.Repeat(" ", n)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

func TestClosureIsSmall(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	for _, p := range packages {
		for _, banned := range []string{
			"net/http", "crypto/tls", "os/exec", "text/template", "go.yaml.in/", "github.com/", "pgregory.net/", "tags.cncf.io/",
			"taskrole/internal/agent", "taskrole/internal/config", "taskrole/internal/netns", "taskrole/internal/skl", "taskrole/lab",
		} {
			if strings.HasPrefix(p+"/", banned+"/") || strings.HasPrefix(p, banned) && strings.HasSuffix(banned, "/") {
				t.Errorf("taskrole-runtime links %s, and every container start would load it", p)
			}
		}
		first, _, _ := strings.Cut(p, "/")
		if strings.Contains(first, ".") && !strings.HasPrefix(p, "golang.org/x/sys/") {
			t.Errorf("taskrole-runtime links %s; of other modules it may link only golang.org/x/sys", p)
		}
	}
	if len(packages) < 10 {
		t.Errorf("go list named only %q", packages)
	}
}
