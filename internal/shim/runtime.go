package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"taskrole/internal/fault"
)

// findRuntime finds the real runtime: the one that TASKROLE_OCI_RUNTIME names, else the first runc, else the first
// crun on the PATH that is not this program. An installation may well have put us there under one of these names.
func findRuntime(o Options) (string, error) {
	if recursion(o.Env) {
		return "", fault.New(fault.RuntimeUnavailable, "the OCI runtime that taskrole-runtime executes leads back to taskrole-runtime",
			"name the real one, by its path, in "+runtimeVariable)
	}
	named := lookup(o.Env, runtimeVariable)
	names := []string{"runc", "crun"}
	if named != "" {
		names = []string{named}
	}
	self, err := os.Stat(o.Self)
	if err != nil {
		return "", fault.Wrap(err, fault.Internal, fmt.Sprintf("taskrole-runtime cannot find itself at %s", o.Self),
			"install it again")
	}
	path := lookup(o.Env, "PATH")
	if path == "" {
		path = defaultPath
	}
	for _, name := range names {
		for _, path := range candidates(name, path) {
			info, err := os.Stat(path)
			if err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil && !os.SameFile(info, self) {
				return path, nil
			}
		}
	}
	if named != "" {
		return "", fault.New(fault.RuntimeUnavailable,
			fmt.Sprintf("the OCI runtime %q, named in %s, is not there, is not executable or is taskrole-runtime itself",
				named, runtimeVariable), "correct the variable in the engine's environment, or remove it")
	}
	return "", fault.New(fault.RuntimeUnavailable, "there is neither runc nor crun on the PATH",
		"install one, or name the real OCI runtime in "+runtimeVariable)
}

// defaultPath is for an engine that leaves PATH away: Podman does for all commands but create.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// candidates is where name may be. Empty and relative entries of the PATH are passed over: the working directory is
// the bundle.
func candidates(name, path string) []string {
	if filepath.IsAbs(name) {
		return []string{name}
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return nil
	}
	var list []string
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) {
			list = append(list, filepath.Join(dir, name))
		}
	}
	return list
}

// recursion says whether what we executed, or a script it is, has executed us again. A program keeps its process id
// through execve, and a script's child has it as its parent's. Anything further away, such as a hook of the
// container that runs an engine of its own, inherits the variable too, and is none of that.
func recursion(env []string) bool {
	pid, err := strconv.Atoi(lookup(env, pidVariable))
	return err == nil && (pid == os.Getpid() || pid == os.Getppid())
}

// lookup returns the value of the variable, or "".
func lookup(env []string, key string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, key+"="); ok {
			return v
		}
	}
	return ""
}

func without(env []string, key string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, key+"=") })
}
