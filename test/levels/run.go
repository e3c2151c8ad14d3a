package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// level is one way to run some of the tests.
type level struct {
	name     string
	setup    []string // a command to run first
	packages func(context.Context) ([]string, error)
	flags    []string // of go test
	root     bool     // the test programs run as root, in namespaces of their own (scripts/isolated)
	race     bool     // with the race detector, where a C compiler makes that possible
	env      []string
	complete bool             // no test of it may be skipped, whatever the reason
	progress func(event) bool // which events are worth a line
}

// features are those of internal/testkit that the netns level exists for: a test that would skip for one fails there.
// The unit level leaves them out, also for root, so that it is quick and the same for everybody.
const features = "root,netns,sk_lookup,cgroup2,docker,shells,systemd-analyze,groff"

func levels() []level {
	return []level{
		{
			name: "unit", setup: []string{"go", "mod", "download"}, packages: everything, race: true,
			env: []string{"TASKROLE_TEST_WITHOUT=" + features}, progress: ofPackages,
		},
		{
			name: "netns", setup: []string{"make", "--no-print-directory", "build", "docker", "judges", "shells", "engines"}, packages: needy,
			race: true, root: true, flags: []string{"-count=1"}, env: []string{"TASKROLE_TEST_REQUIRE=" + features}, progress: ofPackages,
		},
		{
			name: "integration", setup: []string{"make", "--no-print-directory", "build", "engines"}, packages: realEngines,
			root: true, flags: []string{"-count=1", "-tags=integration", "-timeout=15m"},
			env: []string{"TASKROLE_TEST_REQUIRE=all"}, complete: true, progress: ofTests,
		},
	}
}

func everything(context.Context) ([]string, error) { return []string{"./..."}, nil }

func realEngines(context.Context) ([]string, error) { return []string{"./test/integration/..."}, nil }

// needy lists the packages whose tests import testkit: only they can skip for want of a feature.
func needy(ctx context.Context) ([]string, error) {
	const format = `{{range .TestImports}}{{if eq . "taskrole/internal/testkit"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}` +
		`{{range .XTestImports}}{{if eq . "taskrole/internal/testkit"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}`
	out, err := exec.CommandContext(ctx, "go", "list", "-f", format, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// ofPackages shows packages as they end; one without tests is not worth a line.
func ofPackages(e event) bool { return e.Test == "" && e.Action != "skip" }

// ofTests shows whole tests as they end: an integration test takes seconds, and one who waits wants to see which.
func ofTests(e event) bool { return e.Test != "" && !strings.Contains(e.Test, "/") }

func (l level) run(ctx context.Context, w io.Writer) outcome {
	fmt.Fprintf(w, "\n== %s\n", l.name)
	o := outcome{}
	if err := l.prepare(ctx, w); err != nil {
		o.problem = err.Error()
		return o
	}
	cmd, err := l.command(ctx, &o)
	if err != nil {
		o.problem = err.Error()
		return o
	}
	t, err := follow(cmd, w, l.progress)
	if t == nil {
		o.problem = err.Error()
		return o
	}
	t.explain(w)
	o.results = t.leaves()
	o.reasons = map[name]string{}
	for n, r := range o.results {
		if r == "skip" {
			o.reasons[n] = t.reason(n)
		}
	}
	o.problem = l.judge(counted(o.results), err)
	return o
}

// isolated says whether the test programs run in namespaces of their own. The caller being root, all do: then a
// mistake in a test reaches more than it should.
func (l level) isolated() bool { return l.root || os.Geteuid() == 0 }

// judge says why the level failed, or "".
func (l level) judge(c count, err error) string {
	switch {
	case c.failed > 0:
		return fmt.Sprintf("%d of %d tests failed", c.failed, c.passed+c.failed)
	case err != nil:
		return "go test: " + err.Error()
	case c.passed == 0:
		return "it ran no test"
	case l.complete && c.skipped > 0:
		return fmt.Sprintf("%d tests were skipped, and this level may skip none", c.skipped)
	}
	return ""
}

// prepare checks that the level can run at all, and runs its set-up.
func (l level) prepare(ctx context.Context, w io.Writer) error {
	if l.isolated() {
		out, err := exec.CommandContext(ctx, "scripts/packages", "ip=iproute2", "unshare=util-linux").CombinedOutput()
		if err != nil {
			return fmt.Errorf("this level cannot run here: %s", strings.TrimSpace(string(out)))
		}
		out, err = exec.CommandContext(ctx, "scripts/isolated", "true").CombinedOutput()
		if err != nil {
			return fmt.Errorf("this level cannot run here: %s", strings.TrimSpace(string(out)))
		}
	}
	cmd := exec.CommandContext(ctx, l.setup[0], l.setup[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("set-up, %s: %w", strings.Join(l.setup, " "), err)
	}
	return nil
}

// command builds the go test command line.
func (l level) command(ctx context.Context, o *outcome) (*exec.Cmd, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the repository: %w", err)
	}
	packages, err := l.packages(ctx)
	if err != nil {
		return nil, err
	}
	args := append([]string{"test", "-json"}, l.flags...)
	env := append(os.Environ(), l.env...)
	env = append(env, "AWS_EC2_METADATA_DISABLED=true",
		"TASKROLE_TEST_BIN="+filepath.Join(root, "bin"), "TASKROLE_TEST_ENGINES="+filepath.Join(root, "build/engines"),
		"TASKROLE_TEST_DOCKER_TREE="+filepath.Join(root, "build/engines/forky"))
	// Without cgo where the race detector does not need it: what make build compiled is then not compiled again.
	cgo := "CGO_ENABLED=0"
	if l.race {
		if compiler() {
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
		} else {
			o.notes = append(o.notes, "ran without the race detector, which needs a C compiler")
		}
	}
	words := append([]string{"go"}, args...)
	switch {
	case l.root:
		words = append(words, "-exec="+filepath.Join(root, "scripts/isolated"))
	case l.isolated(): // all of go test, because with -exec it does not remember what passed
		words = append([]string{"scripts/isolated"}, words...)
	}
	words = append(words, packages...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(env, cgo)
	// Interrupted, go test waits for the test programs, which end by the signal themselves.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd, nil
}

// compiler says whether there is one: cgo takes $CC, else gcc or clang.
func compiler() bool {
	for _, name := range []string{os.Getenv("CC"), "gcc", "clang"} {
		if path, err := exec.LookPath(name); err == nil && path != "" {
			return true
		}
	}
	return false
}

// follow runs cmd and reads its events. The tally is nil only if nothing ran.
func follow(cmd *exec.Cmd, w io.Writer, progress func(event) bool) (*tally, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t, err := read(out, func(e event) {
		if progress(e) {
			fmt.Fprintf(w, "%-4s  %6.1f s  %s\n", e.Action, e.Elapsed, name{e.Package, e.Test})
		}
	})
	return t, errors.Join(err, cmd.Wait())
}
