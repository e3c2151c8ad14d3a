package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/testkit"
	"taskrole/lab/engine/ocirun"
)

// built is the directory programs made, if it made one.
var built string

// programs builds everything once, as make build does, or takes what a run of several levels has built before.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("TASKROLE_TEST_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "trbin-")
	if err != nil {
		return "", err
	}
	built = dir
	for out, pkg := range map[string][]string{dir + "/": {"taskrole/cmd/..."}, dir + "/taskrole-lab-probe": {"taskrole/lab/probe"}} {
		cmd := exec.Command("go", append([]string{"build", "-o", out}, pkg...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", errors.New(string(text))
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// lab is one run of the program, with a place of its own for everything it makes.
type lab struct {
	t      *testing.T
	cmd    *exec.Cmd
	tmp    string
	stdout bytes.Buffer
	stderr io.ReadCloser
}

func start(t *testing.T, words ...string) *lab {
	t.Helper()
	testkit.Need(t, testkit.Root, testkit.SkLookup)
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t}
	if l.tmp, err = os.MkdirTemp("/tmp", "trt-"); err != nil { //nolint:usetesting // short: sockets are in it
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(l.tmp) })
	l.cmd = exec.CommandContext(t.Context(), filepath.Join(dir, "taskrole-lab"), words...)
	l.cmd.Env = append(os.Environ(), "TMPDIR="+l.tmp, "AWS_EC2_METADATA_DISABLED=true", "AWS_PROFILE=nonsense", "AWS_ACCESS_KEY_ID=AKIAWRONG")
	l.cmd.Stdout = &l.stdout
	if l.stderr, err = l.cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// until reads stderr up to a line that contains text; empty is the end.
func (l *lab) until(text string) string {
	l.t.Helper()
	var seen strings.Builder
	for lines := bufio.NewReader(l.stderr); ; {
		line, err := lines.ReadString('\n')
		seen.WriteString(line)
		if text != "" && strings.Contains(line, text) {
			return seen.String()
		}
		if err != nil {
			if text != "" {
				l.t.Fatalf("ended without %q:\n%s", text, seen.String())
			}
			return seen.String()
		}
	}
}

func (l *lab) wait() int {
	l.t.Helper()
	err := l.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		l.t.Fatal(err)
	}
	return l.cmd.ProcessState.ExitCode()
}

// gone fails the test if the run left files or processes; cgroups are the engines' own tests' matter, since other labs may run beside this one.
func (l *lab) gone(files bool) {
	l.t.Helper()
	if left, _ := filepath.Glob(l.tmp + "/*"); files && len(left) > 0 {
		l.t.Errorf("files are left: %v", left)
	}
	for i := 0; ; i++ {
		left := processes(l.tmp)
		if len(left) == 0 {
			return
		}
		if i == 100 {
			l.t.Fatalf("processes are left: %v", left)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// processes are those that have a path below dir on their command line or hold a file of it open, as a container does
// that waits for its start.
func processes(dir string) []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range paths {
		line, err := os.ReadFile(p + "/cmdline")
		holds := false
		files, _ := filepath.Glob(p + "/fd/*")
		for _, f := range files {
			target, err := os.Readlink(f)
			holds = holds || err == nil && strings.HasPrefix(target, dir)
		}
		if err == nil && (holds || bytes.Contains(line, []byte(dir))) {
			found = append(found, filepath.Base(p)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

func TestDemoWithNamespaces(t *testing.T) {
	l := start(t, "demo", "--engine", "namespace", "--json")
	begin := time.Now()
	stderr := l.until("")
	code := l.wait()
	took := time.Since(begin)
	l.wantAllCells(code, stderr)
	if took > 20*time.Second {
		t.Errorf("took %s, at most 20 s are promised", took)
	}
	l.gone(true)
	if left, _ := filepath.Glob(fmt.Sprintf("%s/taskrole-lab-ns-%d-*", ocirun.CgroupRoot(), l.cmd.Process.Pid)); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

func TestDemoWithDocker(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	l := start(t, "demo", "--engine", "docker", "--json")
	begin := time.Now()
	stderr := l.until("")
	code := l.wait()
	took := time.Since(begin)
	l.wantAllCells(code, stderr)
	if took > time.Minute {
		t.Errorf("took %s, at most a minute is promised", took)
	}
	l.gone(true)
}

// wantAllCells expects the whole table, as it should be.
func (l *lab) wantAllCells(code int, stderr string) {
	t := l.t
	t.Helper()
	n := 0
	for line := range strings.Lines(l.stdout.String()) {
		n++
		var cell struct {
			Where, Column, ARN, Error string
			OK                        bool
		}
		if err := json.Unmarshal([]byte(line), &cell); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !cell.OK {
			t.Errorf("not as the table says: %s", line)
		}
	}
	if code != 0 || n != 13 {
		t.Errorf("exit %d, %d cells\n%s", code, n, stderr)
	}
	if strings.Count(stderr, "/13] ") != 13 {
		t.Errorf("no line of progress for every cell:\n%s", stderr)
	}
}

func TestDemoPrintsTheTable(t *testing.T) {
	l := start(t, "demo", "--engine", "namespace")
	stderr := l.until("")
	if code := l.wait(); code != 0 {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	for _, want := range []string{
		"engine namespace, way in: OCI runtime taskrole", "--network none", "❌ no EC2 IMDS role found", "✅ its own role, buckets listed",
		"❌ InvalidAccessKeyId",
	} {
		if !strings.Contains(l.stdout.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, l.stdout.String())
		}
	}
	l.gone(true)
}

func TestInterruptedTwiceTheDemoStillCleansUp(t *testing.T) {
	for name, at := range map[string]string{"early": "starting the simulated instance", "late": "/13] "} {
		t.Run(name, func(t *testing.T) {
			l := start(t, "demo", "--engine", "namespace")
			l.until(at)
			for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGINT, syscall.SIGTERM} {
				if err := l.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
			}
			stderr := l.until("")
			if code := l.wait(); code != 130 || strings.Contains(stderr, "error:") {
				t.Errorf("exit %d\n%s", code, stderr)
			}
			l.gone(true)
		})
	}
}

func TestKilledTheDemoLeavesNoProcess(t *testing.T) {
	l := start(t, "demo", "--engine", "namespace")
	l.until("/13] ")
	if err := l.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	l.until("")
	l.wait()
	l.gone(false)                           // nobody was there to remove the files
	ocirun.SweepCgroups("taskrole-lab-ns-") // nor these, which the next engine removes
}

func TestUpRunsUntilItIsTold(t *testing.T) {
	l := start(t, "up", "--engine", "namespace")
	l.until("starting the agent")
	for i := 0; ; i++ {
		if found, _ := filepath.Glob(l.tmp + "/*/cdi/taskrole.json"); len(found) > 0 {
			break
		}
		if i == 200 {
			t.Fatal("the agent does not get ready")
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond) // the page is printed when the agent is ready
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stderr := l.until("")
	if code := l.wait(); code != 130 {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	for _, want := range []string{"nsenter --net=/proc/", "http://lab/expire", "The agent:"} {
		if !strings.Contains(l.stdout.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, l.stdout.String())
		}
	}
	l.gone(true)
}

func TestEnginesThatAreNotThereAreRefused(t *testing.T) {
	for words, want := range map[string]string{
		"demo --engine nonsense":               `there is no engine "nonsense"`,
		"demo --engine namespace --image x":    "plain namespaces have no images",
		"demo --engine docker --docker-root /": "docker is not installed",
	} {
		if strings.Contains(words, "docker-root") && testkit.Has(testkit.Docker) {
			continue
		}
		l := start(t, strings.Fields(words)...)
		stderr := l.until("")
		if code := l.wait(); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s", words, code, stderr)
		}
		l.gone(true)
	}
}
