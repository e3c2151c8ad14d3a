package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Programs are the paths of the programs a world is made of. They are in one directory, which containers see.
type Programs struct {
	Agent   string // taskrole
	Runtime string // taskrole-runtime
	Probe   string // taskrole-lab-probe
	Lab     string // this program
}

// modulePath is the module whose programs these are.
const modulePath = "taskrole"

func programsIn(dir, lab string) Programs {
	return Programs{
		Agent: filepath.Join(dir, "taskrole"), Runtime: filepath.Join(dir, "taskrole-runtime"),
		Probe: filepath.Join(dir, "taskrole-lab-probe"), Lab: lab,
	}
}

func (p Programs) missing() []string {
	var names []string
	for _, path := range []string{p.Agent, p.Runtime, p.Probe} {
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			names = append(names, filepath.Base(path))
		}
	}
	return names
}

// FindPrograms returns those beside this program, as "make build" leaves them, or else builds them into dir from the
// module that the working directory is in: with "go run" there is nothing beside this program.
func FindPrograms(ctx context.Context, dir string, progress func(string)) (Programs, error) {
	lab, err := os.Executable()
	if err != nil {
		return Programs{}, fmt.Errorf("find this program: %w", err)
	}
	if p := programsIn(filepath.Dir(lab), lab); len(p.missing()) == 0 {
		return p, nil
	}
	progress("building the programs")
	p := programsIn(dir, lab)
	missing := strings.Join(p.missing(), ", ")
	// The probe has a name of its own in containers, so it is built apart.
	for out, packages := range map[string][]string{
		dir + "/": {modulePath + "/cmd/taskrole", modulePath + "/cmd/taskrole-runtime"},
		p.Probe:   {modulePath + "/lab/probe"},
	} {
		if err := build(ctx, out, packages); err != nil {
			return Programs{}, fmt.Errorf("%s are not beside this program and cannot be built (run it in the source tree, or after make build): %w", missing, err)
		}
	}
	if names := p.missing(); len(names) > 0 {
		return Programs{}, fmt.Errorf("go build did not make %s", strings.Join(names, ", "))
	}
	return p, nil
}

// build makes static programs: they run in trees of other distributions and in containers that hold nothing else.
func build(ctx context.Context, out string, packages []string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", out}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	// A group of its own, so that Ctrl-C reaches the compilers by way of ctx and not at the same time as us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	text, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil {
		const most = 2000
		return fmt.Errorf("%w: %s", err, text[:min(len(text), most)])
	}
	return errors.Join(err, ctx.Err())
}
