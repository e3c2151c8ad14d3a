package launch

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"taskrole/internal/fault"
)

// way is how a container comes to its role.
type way struct {
	name string
	args []string // for the engine, in front of the person's own
	why  string   // it was taken, for -v
}

// The ways in, from the best to the last.
const (
	wayCDI     = "CDI device"
	wayRuntime = "runtime"
	wayLabel   = "label"
)

// runtimeName is what the engine's configuration calls taskrole-runtime.
const runtimeName = "taskrole"

// facts are what an engine says of itself.
type facts struct {
	engine, version string
	cdiDirs         []string
	cdiSomewhere    bool // it reads CDI documents, and does not say where; of a device that it does not find it says so
	runtimes        []string
	labels          bool // whether the agent sees containers of this engine start
}

// choose takes the best way in that the engine has. cdiDir is where the agent writes its document.
func choose(f facts, role, cdiDir string) (way, error) {
	if slices.ContainsFunc(f.cdiDirs, func(dir string) bool { return sameDir(dir, cdiDir) }) {
		return way{wayCDI, []string{"--device=" + device(role)}, f.engine + " " + f.version + " reads CDI documents in " + cdiDir}, nil
	}
	if f.cdiSomewhere {
		return way{wayCDI, []string{"--device=" + device(role)}, f.engine + " " + f.version + " reads CDI documents, in /etc/cdi if not told otherwise"}, nil
	}
	if slices.Contains(f.runtimes, runtimeName) {
		return way{
			wayRuntime,
			[]string{"--runtime=" + runtimeName, "--env=" + variable + "=" + role},
			fmt.Sprintf("%s %s reads no CDI documents in %s, and has a runtime %s", f.engine, f.version, cdiDir, runtimeName),
		}, nil
	}
	if f.labels {
		return way{
			wayLabel,
			[]string{"--label=" + label + "=" + role},
			fmt.Sprintf("%s %s neither reads CDI documents in %s nor has a runtime %s", f.engine, f.version, cdiDir, runtimeName),
		}, nil
	}
	return way{}, fault.New(fault.WayMissing,
		fmt.Sprintf("%s %s has no way in: it reads no CDI documents in %s", f.engine, f.version, cdiDir),
		"prepare the engine (taskrole setup shows what it would change), or use a newer one")
}

// sameDir takes /var/run for /run, which it is a link to nearly everywhere.
func sameDir(a, b string) bool {
	tidy := func(s string) string {
		s = filepath.Clean(s)
		if rest, ok := strings.CutPrefix(s, "/var/run/"); ok {
			return "/run/" + rest
		}
		return s
	}
	return tidy(a) == tidy(b)
}
