package engineroot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Verb is the first argument with which the supervisor is started; Main is what it then runs.
const Verb = "engine-root"

// RestartSignal makes the supervisor stop the daemon as a service manager does, and start it again. It reports a second
// time then.
const RestartSignal = unix.SIGUSR1

// Path is the search path of everything started in the lab, whatever the caller's is.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// goPatience is how long the kernel may take to end the engine's processes and to let go of its cgroups.
const goPatience = 5 * time.Second

// Main supervises one engine: it reads the plan, starts the daemon, reports, and cleans up when standard input ends.
// The result is the program's exit status.
func Main(stdin io.Reader, stdout io.Writer) int {
	// A parent that died must not kill us when we write to it. Not by Ignore: dockerd would inherit that.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()

	out := json.NewEncoder(stdout)
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return 1 // nobody wants an engine any more
	}
	var p Plan
	if err := json.Unmarshal(line, &p); err != nil {
		_ = out.Encode(Report{Error: "read the plan: " + err.Error()})
		return 1
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in) // ends with the program; what comes is of no interest, only that it ends
		cancel()
	}()
	children, restarts := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Notify(restarts, RestartSignal)
	// The directory itself can only be removed from outside: in a tree it is a mount point.
	outside, err := os.OpenFile(filepath.Dir(p.Dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		_ = out.Encode(Report{Error: "find the engine's directory: " + err.Error()})
		return 1
	}
	defer func() { _ = outside.Close() }()
	s := &supervisor{plan: p, outside: outside, children: children, restarts: restarts, say: func(r Report) { _ = out.Encode(r) }}
	s.run(ctx)
	left := s.cleanUp()
	s.say(Report{Left: left})
	if len(left) > 0 {
		return 1
	}
	return 0
}

type supervisor struct {
	plan     Plan
	outside  *os.File         // the parent of the engine's directory
	say      func(Report)     // errors are dropped: the parent may be gone
	children <-chan os.Signal // one of our children ended
	restarts <-chan os.Signal // the daemon is to end, and to be started again
	again    bool             // it has been told
	cgroups  *cgroups
}

// run starts the daemon and returns once ctx or the daemon has ended; cleanUp ends what is still there.
func (s *supervisor) run(ctx context.Context) {
	d, err := s.start(ctx)
	for err == nil {
		var pid int
		if pid, err = s.startDaemon(d); err != nil {
			break
		}
		s.say(Report{CLI: d.cli})
		status, ended := s.waitFor(ctx, pid)
		switch {
		case !ended:
			return
		case s.again:
			s.again = false
		default:
			err = fmt.Errorf("%s ended with status %d\n%s", s.plan.Kind.Program(), status.ExitStatus(), s.complaints())
		}
	}
	s.say(Report{Error: err.Error()})
	// No SIGTERM: there is nothing to save. The images are in memory, the network is about to vanish, the containers
	// were removed if the end is an orderly one; and dockerd spends a second on asking its containerd to end.
}

// waitFor reaps children until pid is among them or ctx ends. Nobody else may wait for a child meanwhile.
func (s *supervisor) waitFor(ctx context.Context, pid int) (_ unix.WaitStatus, ended bool) {
	for {
		for {
			child, status, ok := reapOne()
			if !ok {
				break
			}
			if child == pid {
				return status, true
			}
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-s.children:
		case <-s.restarts:
			s.again = unix.Kill(pid, unix.SIGTERM) == nil
		}
	}
}

func (s *supervisor) start(ctx context.Context) (_ daemon, err error) {
	// Shims and containers that lose their parents become our children, so that we can wait for them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return daemon{}, fmt.Errorf("become a subreaper: %w", err)
	}
	if err := enterRoot(s.plan); err != nil {
		return daemon{}, err
	}
	if s.cgroups, err = makeCgroups(s.plan); err != nil {
		return daemon{}, err
	}
	return s.plan.prepare(ctx)
}

func (s *supervisor) startDaemon(d daemon) (pid int, err error) {
	log, err := os.OpenFile(s.plan.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	group, err := os.Open(s.plan.Daemons())
	if err != nil {
		return 0, err
	}
	defer func() { _ = group.Close() }()
	// Not bound to a context: the cgroup says what has to end, and it is more than this process.
	cmd := exec.Command(d.path, d.args...) //nolint:noctx // see above
	cmd.Env = append([]string{"PATH=" + Path, "HOME=" + s.plan.Dir}, s.plan.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", s.plan.Kind.Program(), err)
	}
	return cmd.Process.Pid, nil // waitFor waits for it
}

// cleanUp ends what is left of the engine and removes what it made. It returns what it could not remove.
func (s *supervisor) cleanUp() (left []string) {
	note := func(err error) {
		if err != nil {
			left = append(left, err.Error())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), goPatience)
	defer cancel()
	if s.cgroups != nil {
		note(s.cgroups.kill(ctx))
		note(s.cgroups.remove(ctx))
	}
	if err := detachBelow(s.plan.Dir); err != nil {
		// Removing files now could reach through a mount to files that are not ours.
		note(err)
		return left
	}
	entries, err := os.ReadDir(s.plan.Dir)
	note(err)
	for _, e := range entries {
		note(os.RemoveAll(filepath.Join(s.plan.Dir, e.Name())))
	}
	if err := unix.Unlinkat(int(s.outside.Fd()), filepath.Base(s.plan.Dir), unix.AT_REMOVEDIR); err != nil {
		note(fmt.Errorf("remove %s: %w", s.plan.Dir, err))
	}
	return left
}

// complaints are the last lines of the daemon's log that say what went wrong.
func (s *supervisor) complaints() string {
	data, err := os.ReadFile(s.plan.Log())
	if err != nil {
		return err.Error()
	}
	var bad []string
	for line := range bytes.Lines(data) {
		if !bytes.Contains(line, []byte("level=info")) && !bytes.Contains(line, []byte("level=debug")) {
			bad = append(bad, strings.TrimSpace(string(line)))
		}
	}
	return strings.Join(bad[max(0, len(bad)-8):], "\n")
}

// Find looks for a program in the usual directories of a root file system.
func Find(root, name string) (string, error) {
	for dir := range strings.SplitSeq(Path, ":") {
		path := filepath.Join(root, dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed in %s: %w", name, root, exec.ErrNotFound)
}

// cliBeside finds the docker client that was installed with the daemon, before any other: only a client of 25 or
// later understands a CDI device, and a machine may have several.
func cliBeside(dockerd string) (string, error) {
	for _, dir := range []string{".", "../bin"} {
		path := filepath.Join(filepath.Dir(dockerd), dir, "docker")
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return Find("/", "docker")
}

// majorVersion asks the daemon's program: "Docker version 20.10.24+dfsg1, build 5d6db84".
func majorVersion(ctx context.Context, dockerd string) (int, error) {
	cmd := exec.CommandContext(ctx, dockerd, "--version")
	cmd.Env = []string{"PATH=" + Path}
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", dockerd, err)
	}
	_, version, _ := strings.Cut(string(out), "version ")
	return Major(version)
}

var errVersion = errors.New("no version number")

// Major is the first number of a version such as "20.10.24+dfsg1".
func Major(version string) (int, error) {
	word, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("docker's version %.40q: %w", version, errVersion)
	}
	return major, nil
}
