package control_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
	"taskrole/internal/testkit"
)

// inContainer makes the test binary, started again in a pid namespace of its own, ask at the socket it holds.
const inContainer = "TASKROLE_TEST_ASK_AT"

func TestMain(m *testing.M) {
	if socket := os.Getenv(inContainer); socket != "" {
		_, err := control.Credentials(context.Background(), socket, control.CredentialsRequest{Role: "r", Use: "env"})
		fmt.Println(fault.CodeOf(err))
		return
	}
	os.Exit(m.Run())
}

func TestRootInAContainerIsHandedNothing(t *testing.T) {
	testkit.Need(t, testkit.Root)
	var asked atomic.Int64
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{
		credentials: func(control.CredentialsRequest, control.Peer) (control.CredentialsReply, error) {
			asked.Add(1)
			return control.CredentialsReply{Credentials: secret.Credentials{
				AccessKeyID: "A", SecretAccessKey: secret.New("s"), SessionToken: secret.New("t"), Expires: time.Now().Add(time.Hour),
			}}, nil
		},
	}))
	for _, c := range []struct {
		flags uintptr
		want  fault.Code
	}{{0, ""}, {syscall.CLONE_NEWPID, fault.PermissionDenied}, {syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, fault.PermissionDenied}} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = []string{inContainer + "=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.flags}
		out, err := cmd.CombinedOutput()
		if got := fault.Code(strings.TrimSpace(string(out))); err != nil || got != c.want {
			t.Errorf("with flags %#x: %q, %v, want %q", c.flags, out, err, c.want)
		}
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("the agent was asked %d times, want once", got)
	}
}
