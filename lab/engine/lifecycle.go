package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"taskrole/lab/ec2"
)

// verbTimeout bounds one call of the runtime. The longest is a create whose hook waits for the agent.
const verbTimeout = 90 * time.Second

// outputLimit bounds what is kept of a container's output.
const outputLimit = 4 << 20

// create makes and starts the container. A refusal comes back as the words of the runtime, an error is our own.
func (e *Engine) create(ctx context.Context, r *run) (pid int, refused []byte, err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	if err := e.writeBundle(r); err != nil {
		return 0, nil, err
	}
	pidFile := filepath.Join(r.bundle, "init.pid")
	if err := e.call(ctx, r, "create", "--bundle", r.bundle, "--pid-file", pidFile, r.id); err != nil {
		return 0, e.words(r, err), nil
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, nil, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return 0, nil, fmt.Errorf("pid file: %w", err)
	}
	err = e.net.connect(r.c.Network, pid, r.id)
	if err == nil {
		if e := e.call(ctx, r, "start", r.id); e != nil {
			err = fmt.Errorf("start container: %w", e)
		}
	}
	if err != nil {
		return 0, nil, errors.Join(err, e.destroy(ctx, r, pid))
	}
	return pid, nil, nil
}

// reap waits for the end of the container, or ends it with ctx or the engine, and removes it.
func (e *Engine) reap(ctx context.Context, r *run, pid int) (ec2.Result, error) {
	p, err := os.FindProcess(pid) // our child since the runtime has ended: it cannot be somebody else's number
	if err != nil {
		return ec2.Result{}, errors.Join(err, e.end(r))
	}
	stopKilling := context.AfterFunc(ctx, func() { _ = p.Kill() })
	e.running(r, p)
	state, err := p.Wait()
	stopKilling()
	if err != nil {
		return ec2.Result{}, errors.Join(fmt.Errorf("wait for container: %w", err), e.end(r))
	}
	result := ec2.Result{Exit: state.ExitCode(), Stdout: content(r.stdout), Stderr: content(r.stderr)}
	if result.Exit < 0 {
		result.Exit = 137 // killed; as docker says it
	}
	err = e.call(context.WithoutCancel(ctx), r, "delete", "--force", r.id)
	if err != nil {
		err = fmt.Errorf("delete container: %w", err)
	}
	return result, errors.Join(ctx.Err(), err, e.end(r))
}

// running lets Close end the container, and ends it if Close has been already; end forgets it.
func (e *Engine) running(r *run, p *os.Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inits[r] = p
	if e.closed {
		_ = p.Kill() // it may have ended
	}
}

// destroy ends a container that was created and could not be started; end is left to the caller.
func (e *Engine) destroy(ctx context.Context, r *run, pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_ = p.Kill() // it may have ended
	_, _ = p.Wait()
	return e.call(ctx, r, "delete", "--force", r.id)
}

// call runs one verb of the runtime, through the shim for a container that has a role. It is not ended with ctx: a
// runtime killed half way leaves a half-made container, and every step of it is bounded.
func (e *Engine) call(ctx context.Context, r *run, args ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbTimeout)
	defer cancel()
	program := e.runtime
	if r.shim {
		program = e.o.Shim
	}
	args = append([]string{"--root", filepath.Join(e.o.Dir, "state"), "--log", r.logPath(), "--log-format", "json"}, args...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + defaultPath, "TASKROLE_OCI_RUNTIME=" + e.runtime, "TASKROLE_CDI_SPEC=" + e.o.Spec}
	cmd.Dir = r.bundle
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	if err := e.o.Instance.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// words says why a create failed: as containerd, from the last error in the runtime's log, else from stderr.
func (e *Engine) words(r *run, err error) []byte {
	reason := strings.TrimSpace(string(content(r.stderr)))
	if b, e := os.ReadFile(r.logPath()); e == nil {
		for line := range bytes.Lines(b) {
			var entry struct{ Level, Msg string }
			if json.Unmarshal(line, &entry) == nil && entry.Level == "error" && entry.Msg != "" {
				reason = entry.Msg
			}
		}
	}
	if reason == "" {
		reason = err.Error()
	}
	return []byte("OCI runtime create failed: " + reason + "\n")
}

// content reads an output file from its beginning.
func content(f *os.File) []byte {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, outputLimit))
	if err != nil {
		return nil // our own file in our own directory; an empty output fails every expectation
	}
	return b
}
