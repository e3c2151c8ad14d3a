// Package shim is an OCI runtime that gives containers their role and leaves everything else to the real one.
//
// It is the way in for engines without CDI: "docker run --runtime taskrole -e TASKROLE=NAME". On create, run and
// restore it looks for TASKROLE in the environment of the bundle's config.json, puts in what the CDI device of that
// role would have put in, and executes the real runtime with the arguments it was given, to the byte. On any other
// command, and for containers without TASKROLE, it touches nothing. It refuses what it cannot understand rather than
// start a container without its role, and it asks nobody: the hook it puts in does.
//
// It edits the bundle as raw JSON and never decodes it whole (see ociedit): an OCI runtime that rewrites config.json
// through structs of its own loses every member that is newer than itself.
package shim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"taskrole/internal/cdispec"
	"taskrole/internal/container"
	"taskrole/internal/durable"
	"taskrole/internal/fault"
	"taskrole/internal/ociedit"
)

// roleVariable names the role, in the environment of the container.
const roleVariable = "TASKROLE"

// Variables of the shim's own environment, which is the engine's. They are for installations and tests that have
// things elsewhere; a container cannot set them.
const (
	specVariable    = "TASKROLE_CDI_SPEC"    // path of the document with the roles
	runtimeVariable = "TASKROLE_OCI_RUNTIME" // path, or name on the PATH, of the real runtime
	pidVariable     = "TASKROLE_SHIM_PID"    // set by the shim itself: see recursion
)

// Options is the process the shim works for. Every field must be set.
type Options struct {
	Args   []string // os.Args
	Env    []string // os.Environ()
	Dir    string   // working directory: the bundle, if the arguments name none
	Self   string   // path of this program's file, os.Executable()
	Stderr io.Writer
	Now    func() time.Time
	Exec   func(path string, argv, env []string) error // syscall.Exec; returns only errors
}

// Run returns the exit code, and only if the real runtime was not executed. Then it has said why: in one line on
// Stderr, and as an entry of the log file where the arguments name one, which is where engines look for it.
func Run(o Options) int {
	c := parseArgs(o.Args[1:])
	err := run(o, c)
	if err == nil {
		return fault.ExitOK // only with an Exec that returns
	}
	f := fault.As(err)
	report(o, c, f)
	return fault.ExitFault // as runc: also for what other programs call wrong usage
}

func run(o Options, c command) error {
	if c.makesContainer() {
		if err := giveRole(o, c.config(o.Dir)); err != nil {
			return err
		}
	}
	path, err := findRuntime(o)
	if err != nil {
		return err
	}
	argv := slices.Concat([]string{path}, o.Args[1:]) // crun behaves by its name, so it must be its own
	env := append(without(o.Env, pidVariable), fmt.Sprintf("%s=%d", pidVariable, os.Getpid()))
	if err := o.Exec(path, argv, env); err != nil {
		return fault.Wrap(err, fault.RuntimeUnavailable, fmt.Sprintf("the OCI runtime %s cannot be executed: %v", path, err),
			"install runc or crun, or name the runtime in "+runtimeVariable)
	}
	return nil
}

// giveRole edits the config.json at path if it names a role. Doing so again changes nothing.
func giveRole(o Options, path string) error {
	config, err := durable.ReadFile(path, ociedit.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the real runtime has its own words for that
	}
	if err != nil {
		return unreadable(path, err)
	}
	role, named, err := ociedit.Env(config, roleVariable)
	if err != nil {
		return err
	}
	if !named {
		return nil
	}
	if role == "" {
		return fault.New(fault.RoleUnknown, roleVariable+" is set but empty",
			"set it to the name of a role, or start the container without it")
	}
	edits, err := lookUp(o, role)
	if err != nil {
		return err
	}
	edited, err := ociedit.Apply(config, edits)
	if err != nil {
		return err
	}
	if string(edited) == string(config) {
		return nil
	}
	return replace(path, edited)
}

// lookUp finds what the role's CDI device puts into a container, and has the hook say which way it came.
func lookUp(o Options, role string) (ociedit.Edits, error) {
	paths := []string{filepath.Join("/etc/cdi", cdispec.FileName), filepath.Join("/var/run/cdi", cdispec.FileName)}
	if p := lookup(o.Env, specVariable); p != "" {
		paths = []string{p}
	}
	for _, path := range paths {
		spec, err := durable.ReadFile(path, cdispec.MaxSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return ociedit.Edits{}, badSpec(path, err)
		}
		edits, err := cdispec.Device(spec, role)
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return ociedit.Edits{}, f
		}
		if err != nil {
			return ociedit.Edits{}, badSpec(path, err)
		}
		for i := range edits.Hooks {
			edits.Hooks[i].Args = append(slices.Clip(edits.Hooks[i].Args), "--way", string(container.WayShim))
		}
		return edits, nil
	}
	return ociedit.Edits{}, fault.New(fault.AgentUnreachable,
		fmt.Sprintf("the taskrole agent has not written its list of roles to %s", paths[0]),
		`start it with "taskrole agent" (or systemctl start taskrole), or start the container without a role`)
}

func badSpec(path string, err error) error {
	return fault.Wrap(err, fault.Internal, fmt.Sprintf("the list of roles at %s cannot be read: %s", path, reason(err)),
		"restart the taskrole agent, which writes it anew")
}

// replace puts a new config.json in the old one's place, with its mode and owner.
func replace(path string, data []byte) error {
	info, err := os.Lstat(path)
	if err != nil {
		return unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return unreadable(path, durable.ErrNotRegular) // a link would be replaced, and its target be left as it is
	}
	if err := durable.WriteFile(path, data, info.Mode().Perm()); err != nil {
		return fault.Wrap(err, fault.BundleInvalid, fmt.Sprintf("%s cannot be replaced: %s", path, reason(err)),
			"make sure that the engine's state directory is writable and has space")
	}
	if err := giveBack(path, info); err != nil {
		return fault.Wrap(err, fault.BundleInvalid, fmt.Sprintf("%s cannot be given back to its owner: %s", path, reason(err)),
			"run the engine as the owner of its bundles, or as root")
	}
	return nil
}

// giveBack makes the new file's owner that of the old one, where they differ: engines with user namespaces may not be
// the owner of their bundles.
func giveBack(path string, old fs.FileInfo) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	was, ok := old.Sys().(*syscall.Stat_t)
	is, ok2 := info.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || was.Uid == is.Uid && was.Gid == is.Gid {
		return nil
	}
	return os.Lchown(path, int(was.Uid), int(was.Gid))
}

func unreadable(path string, err error) error {
	return fault.Wrap(err, fault.BundleInvalid, fmt.Sprintf("%s cannot be read: %s", path, reason(err)),
		"the engine wrote it; if the container starts without taskrole, report this")
}

// reason is the error without the path, which the sentence has already.
func reason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}
