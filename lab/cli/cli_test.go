package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"taskrole/internal/fault"
	"taskrole/lab/engine/ocirun"
)

func runWords(t *testing.T, words ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), Options{Args: words, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
	return code, out.String(), errs.String()
}

func TestWordsThatAreWrongAreUsage(t *testing.T) {
	for _, words := range []string{"dance", "demo now", "demo --engine", "up --json", "demo --nonsense"} {
		code, _, stderr := runWords(t, append([]string{"taskrole-lab"}, strings.Fields(words)...)...)
		if code != fault.ExitUsage || !strings.HasPrefix(stderr, "taskrole-lab: error: ") || !strings.Contains(stderr, "taskrole-lab: hint: ") {
			t.Errorf("%q: exit %d, %q", words, code, stderr)
		}
	}
}

func TestHelpNamesTheCommandsForPeopleOnly(t *testing.T) {
	code, stdout, _ := runWords(t, "taskrole-lab")
	if code != 0 || !strings.Contains(stdout, "demo") || !strings.Contains(stdout, "up ") || strings.Contains(stdout, "engine-root") || strings.Contains(stdout, "completion") {
		t.Errorf("exit %d, %q", code, stdout)
	}
	code, stdout, _ = runWords(t, "taskrole-lab", "demo", "--help")
	for _, flag := range []string{"--engine", "--json", "--image"} {
		if code != 0 || !strings.Contains(stdout, flag) {
			t.Errorf("the help of demo lacks %s: %q", flag, stdout)
		}
	}
}

func TestByTheRuntimesNameItIsTheRuntime(t *testing.T) {
	code, _, stderr := runWords(t, "/x/"+ocirun.Name, "--root", t.TempDir(), "state", "nobody")
	if code == 0 || !strings.Contains(stderr, "container nobody does not exist") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestTheFirstSignalEndsTheRunAndTheNextChangeNothing(t *testing.T) {
	// The kernel may deliver a signal later than the call that sends it returns, and by then nobody else may take it.
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGINT)
	defer signal.Stop(arrived)
	ctx, done := interruptible(t.Context(), io.Discard)
	for range 3 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		<-arrived
		<-ctx.Done()
	}
	if cause := context.Cause(ctx); !errors.Is(cause, errInterrupted) {
		t.Errorf("cause %v", cause)
	}
	done()
	if quiet, stop := interruptible(t.Context(), io.Discard); quiet.Err() != nil {
		t.Error("an old signal counts for a new run")
	} else {
		stop()
	}
}

func TestAfterAnInterruptionOnlyOtherErrorsAreShown(t *testing.T) {
	left := errors.New("mount is busy")
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"nothing":              {nil, nil},
		"only_that":            {context.Canceled, nil},
		"wrapped":              {fmt.Errorf("run: %w", context.Canceled), nil},
		"joined_with_left":     {errors.Join(broken(fmt.Errorf("run: %w", context.Canceled)), left), left},
		"joined_with_only_it":  {errors.Join(context.Canceled, context.Canceled), nil},
		"left_inside_a_fault":  {broken(errors.Join(fmt.Errorf("run: %w", errInterrupted), left)), left},
		"another_error_itself": {left, left},
	} {
		if got := notCancelled(c.err); (got == nil) != (c.want == nil) || c.want != nil && !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
