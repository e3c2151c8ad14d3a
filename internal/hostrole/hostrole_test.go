package hostrole_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/companion"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/hostrole"
	"taskrole/internal/secret"
)

// TestMain makes the test's program also the three that a command needs: taskrole exec, its companion, and an SDK.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 {
		os.Exit(m.Run())
	}
	var err error
	switch socket := os.Args[2]; os.Args[1] {
	case "taskrole-exec":
		err = hostrole.Run(context.Background(), hostrole.Options{
			Command: os.Args[3:], Env: os.Environ(), Companion: []string{"companion", socket}, Stderr: os.Stderr, Exec: syscall.Exec,
		})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(fault.As(err).Exit())
	case "companion":
		err = companion.Detach("serve", socket)
	case "serve":
		err = hostrole.Serve(context.Background(), hostrole.ServeOptions{
			Role: "reader", Socket: socket, ConfigPath: filepath.Join(filepath.Dir(socket), "config.yaml"), Logger: slog.New(slog.DiscardHandler),
		})
	case "sdk":
		err = sdk(socket)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sdk does what os.Args[2] says: once, or until the keys change, or until there are none.
func sdk(until string) error {
	if until == "terminated" { // what systemctl stop does to the companion
		if err := terminateCompanion(); err != nil {
			return err
		}
		until = "once"
	}
	first := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"), nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN"))
		answer, err := (&http.Client{}).Do(r)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return err
		}
		var c struct {
			AccessKeyID string `json:"AccessKeyId"`
			Code        string
		}
		if err := json.Unmarshal(body, &c); err != nil {
			return err
		}
		if first == "" {
			first = c.AccessKeyID
		}
		if until == "once" || until == "changed" && c.AccessKeyID != first || until == "none" && answer.StatusCode != http.StatusOK {
			fmt.Println(os.Getpid(), answer.StatusCode, c.AccessKeyID, c.Code, os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
			return nil
		}
		wait := time.NewTimer(50 * time.Millisecond)
		<-wait.C
	}
	return fmt.Errorf("not %s in time", until)
}

// terminateCompanion sends the signals that a person or a service manager would.
func terminateCompanion() error {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range all {
		words, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(words), "\x00serve\x00"+os.Getenv("TEST_SOCKET")+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		return errors.Join(syscall.Kill(pid, syscall.SIGTERM), syscall.Kill(pid, syscall.SIGINT), syscall.Kill(pid, syscall.SIGHUP))
	}
	return errors.New("there is no companion")
}

// agent is the host's agent, as far as it gives credentials.
type agent struct {
	control.Handler
	control.Operator
	socket string
	calls  atomic.Int32
	give   func(call int) (secret.Credentials, error)
}

func (a *agent) Credentials(_ context.Context, r control.CredentialsRequest, _ control.Peer) (control.CredentialsReply, error) {
	if r.Role != "reader" || r.Use != "exec" {
		return control.CredentialsReply{}, fmt.Errorf("asked for %+v", r)
	}
	c, err := a.give(int(a.calls.Add(1)))
	return control.CredentialsReply{Credentials: c, Session: "reader-exec", Region: "eu-central-1"}, err
}

func startAgent(t *testing.T, give func(call int) (secret.Credentials, error)) *agent {
	t.Helper()
	a := &agent{socket: filepath.Join(t.TempDir(), "s"), give: give}
	l, err := control.Listen(a.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, a, slog.New(slog.DiscardHandler), control.WithOperator(a), control.WithPeers(func(uint32) error { return nil }))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

func credentials(call int, life time.Duration) secret.Credentials {
	return secret.Credentials{
		AccessKeyID: "ASIA" + strconv.Itoa(call), SecretAccessKey: secret.New("k"), SessionToken: secret.New("t"), Expires: time.Now().Add(life),
		AccountID: "123456789012", RoleARN: "arn:aws:iam::123456789012:role/x",
	}
}

func hourly(call int) (secret.Credentials, error) { return credentials(call, time.Hour), nil }

// self is this program, which TestMain makes four of.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type ran struct {
	stdout, stderr string
	cmd            *exec.Cmd
}

// taskroleExec runs a command as taskrole exec does.
func taskroleExec(t *testing.T, a *agent, command ...string) ran {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), self(t), append([]string{"taskrole-exec", a.socket}, command...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &stdout, &stderr, strings.NewReader("some input")
	cmd.Env = append(os.Environ(), "TEST_SOCKET="+a.socket)
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return ran{stdout.String(), stderr.String(), cmd}
}

func TestCommandHasTheRoleAndIsTheProcessThatWasStarted(t *testing.T) {
	a := startAgent(t, hourly)
	r := taskroleExec(t, a, self(t), "sdk", "once")
	var pid, status int
	var key, uri string
	if _, err := fmt.Sscan(r.stdout, &pid, &status, &key, &uri); err != nil {
		t.Fatalf("stdout %q, stderr %q: %v", r.stdout, r.stderr, err)
	}
	if pid != r.cmd.Process.Pid || status != http.StatusOK || key != "ASIA1" {
		t.Errorf("pid %d, status %d, key %s; want %d, 200, ASIA1", pid, status, key, r.cmd.Process.Pid)
	}
	// The endpoint ends with the command.
	address := strings.TrimSuffix(strings.TrimPrefix(uri, "http://"), "/v1/credentials")
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(end) {
			t.Fatal("the endpoint is there 10 s after the command's end")
		}
	}
}

func TestExitStatusSignalsAndInputAreTheCommands(t *testing.T) {
	a := startAgent(t, hourly)
	if r := taskroleExec(t, a, "sh", "-c", "cat; exit 7"); r.cmd.ProcessState.ExitCode() != 7 || r.stdout != "some input" || r.stderr != "" {
		t.Errorf("%v, stdout %q, stderr %q", r.cmd.ProcessState, r.stdout, r.stderr)
	}
	r := taskroleExec(t, a, "sh", "-c", "kill -QUIT $$")
	if s, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGQUIT {
		t.Errorf("%v, want the command's end by SIGQUIT", r.cmd.ProcessState)
	}
	// A command that waits for its children has none but its own.
	if r := taskroleExec(t, a, "sh", "-c", "cat /proc/$$/task/$$/children"); len(strings.Fields(r.stdout)) != 1 { // the cat
		t.Errorf("children of the command: %q, want the one it started", r.stdout)
	}
}

func TestCommandThatIsToldToEndKeepsItsRole(t *testing.T) {
	a := startAgent(t, hourly)
	r := taskroleExec(t, a, self(t), "sdk", "terminated")
	if !strings.Contains(r.stdout, " 200 ASIA1 ") {
		t.Errorf("%v, stdout %q, stderr %q", r.cmd.ProcessState, r.stdout, r.stderr)
	}
}

func TestCredentialsAreRenewedWhileTheCommandRuns(t *testing.T) {
	a := startAgent(t, func(call int) (secret.Credentials, error) { return credentials(call, 4*time.Second), nil })
	r := taskroleExec(t, a, self(t), "sdk", "changed")
	if !strings.Contains(r.stdout, " 200 ASIA2 ") {
		t.Errorf("%v, stdout %q, stderr %q", r.cmd.ProcessState, r.stdout, r.stderr)
	}
}

func TestExpiredCredentialsAreNotServed(t *testing.T) {
	a := startAgent(t, func(call int) (secret.Credentials, error) {
		if call == 1 {
			return credentials(call, 2*time.Second), nil
		}
		return secret.Credentials{}, fault.New(fault.STSUnreachable, "STS does not answer", "wait")
	})
	r := taskroleExec(t, a, self(t), "sdk", "none")
	if !strings.Contains(r.stdout, " 503 ") || !strings.Contains(r.stdout, string(fault.CredentialsExpired)) {
		t.Errorf("%v, stdout %q, stderr %q", r.cmd.ProcessState, r.stdout, r.stderr)
	}
}

func TestCommandIsNotStartedWithoutTheRole(t *testing.T) {
	a := startAgent(t, func(int) (secret.Credentials, error) {
		return secret.Credentials{}, fault.New(fault.RoleUnknown, "no role is called reader", "did you mean writer?")
	})
	r := taskroleExec(t, a, "sh", "-c", "echo started")
	if r.stdout != "" || r.cmd.ProcessState.ExitCode() != fault.ExitFault || !strings.Contains(r.stderr, "did you mean writer? [role-unknown]") {
		t.Errorf("%v, stdout %q, stderr %q", r.cmd.ProcessState, r.stdout, r.stderr)
	}
}

func TestProgramsThatCannotBeRun(t *testing.T) {
	a := startAgent(t, hourly)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]int{"taskrole-no-such-program": fault.ExitMissing, "/no/such": fault.ExitMissing, plain: fault.ExitUnusable} {
		if r := taskroleExec(t, a, program); r.cmd.ProcessState.ExitCode() != want || r.stdout != "" {
			t.Errorf("%s: %v, want exit status %d; stderr %q", program, r.cmd.ProcessState, want, r.stderr)
		}
	}
	if n := a.calls.Load(); n > 0 {
		t.Errorf("the agent was asked %d times for commands that cannot be run", n)
	}
}

func TestOnlyRootMayExec(t *testing.T) {
	err := hostrole.Run(t.Context(), hostrole.Options{Command: []string{"true"}, UID: 1000})
	if fault.CodeOf(err) != fault.PermissionDenied {
		t.Errorf("Run() = %v, want permission-denied", err)
	}
}

func TestWithoutAgentAndConfigurationTheFaultNamesBoth(t *testing.T) {
	a := &agent{socket: filepath.Join(t.TempDir(), "s")}
	r := taskroleExec(t, a, "true")
	if r.cmd.ProcessState.ExitCode() != fault.ExitUsage || !strings.Contains(r.stderr, "no agent answers at "+a.socket) || !strings.Contains(r.stderr, "config.yaml") {
		t.Errorf("%v, stderr %q", r.cmd.ProcessState, r.stderr)
	}
}
