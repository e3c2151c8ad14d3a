package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"taskrole/internal/container"
)

// fifoName is the pipe through which start tells the waiting first process to go on.
const fifoName = "exec.fifo"

// store is the state directory of one container.
type store struct {
	dir string
	id  string
}

// record is what one run of the runtime leaves for the next.
type record struct {
	specs.State
	// Cgroup is the directory that create made, or empty.
	Cgroup string `json:"cgroup,omitempty"`
}

func openStore(root, id string) (*store, error) {
	if !container.ID(id).Valid() {
		return nil, fmt.Errorf("%.80q is not a container id", id)
	}
	return &store{dir: filepath.Join(root, id), id: id}, nil
}

func (s *store) fifo() string { return filepath.Join(s.dir, fifoName) }

// make creates the directory, which must be new: ids are unique.
func (s *store) make() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("container with id %s exists already", s.id)
		}
		return err
	}
	return unix.Mkfifo(s.fifo(), 0o600)
}

func (s *store) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "state.json"), b, 0o600)
}

func (s *store) read() (record, error) {
	var r record
	b, err := readFile(s.dir, "state.json")
	if errors.Is(err, os.ErrNotExist) {
		return r, fmt.Errorf("container %s does not exist", s.id)
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("decode state of %s: %w", s.id, err)
	}
	if r.Status != specs.StateStopped && !alive(r.Pid) {
		r.Status = specs.StateStopped
	}
	return r, nil
}

// alive says whether a process is there and has not ended. A zombie has: its parent, the engine, has not asked yet.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(b), ')') // the name before it may hold anything
	return i >= 0 && i+2 < len(b) && b[i+2] != 'Z' && b[i+2] != 'X'
}

func (s *store) start() error {
	r, err := s.read()
	if err != nil {
		return err
	}
	if r.Status != specs.StateCreated {
		return fmt.Errorf("cannot start a container in state %q", r.Status)
	}
	// The first process holds the pipe open for reading; without it this open fails with ENXIO instead of waiting.
	f, err := os.OpenFile(s.fifo(), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.id, err)
	}
	_, err = f.Write([]byte{0})
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("start %s: %w", s.id, err)
	}
	r.Status = specs.StateRunning
	return s.write(r)
}

func (s *store) print(out io.Writer) error {
	r, err := s.read()
	if err != nil {
		return err
	}
	if r.Status == specs.StateStopped {
		r.Pid = 0
	}
	return json.NewEncoder(out).Encode(r.State)
}

func (s *store) kill(signal string) error {
	r, err := s.read()
	if err != nil {
		return err
	}
	if r.Status == specs.StateStopped {
		return fmt.Errorf("container %s is not running", s.id)
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	return unix.Kill(r.Pid, sig)
}

// parseSignal understands 9, KILL and SIGKILL; empty is SIGTERM.
func parseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || n <= 0 || n > 64 {
		return 0, fmt.Errorf("%.20q is not a signal", s)
	}
	return unix.Signal(n), nil
}

// deleteWait is how long delete --force waits for the first process to be gone.
const deleteWait = 5 * time.Second

func (s *store) delete(ctx context.Context, force bool) error {
	r, err := s.read()
	if err != nil {
		if force {
			return os.RemoveAll(s.dir) // as runc: --force of nothing is no error
		}
		return err
	}
	if r.Status != specs.StateStopped {
		if !force {
			return fmt.Errorf("cannot delete container %s that is not stopped", s.id)
		}
		if err := unix.Kill(r.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, deleteWait)
	defer cancel()
	return errors.Join(removeCgroup(ctx, r.Cgroup), os.RemoveAll(s.dir))
}
