package doctor_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/doctor"
	"taskrole/internal/fault"
	"taskrole/internal/testkit"
)

// mute takes connections and says nothing.
func mute(t *testing.T, network string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen(network, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	return path
}

// TestWhenEverythingHangs: engines and agent take the question and do not answer.
func TestWhenEverythingHangs(t *testing.T) {
	testkit.Need(t, testkit.Root)
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "socket: " + mute(t, "unixpacket") + "\nengines: {docker: 'unix://" + mute(t, "unix") + "', podman: 'unix://" + mute(t, "unix") + "'}\n" +
		"roles: {app: {arn: 'arn:aws:iam::123456789012:role/app', allow: [{any: true}]}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	audited := make(chan error, 1)
	go func() {
		begin := time.Now()
		err := doctor.Audit(t.Context(), doctor.AuditQuery{ConfigPath: config, JSON: true}, io.Discard)
		if d := time.Since(begin); d > 9*time.Second {
			t.Errorf("the audit took %v", d)
		}
		audited <- err
	}()
	begin := time.Now()
	err := doctor.Run(t.Context(), doctor.Query{Container: "web", ConfigPath: config}, &bytes.Buffer{})
	if d := time.Since(begin); fault.CodeOf(err) != fault.EngineUnreachable || d > 3*time.Second {
		t.Errorf("%v after %v", err, d)
	}

	cmd := exec.Command("cat") // it waits as long as we do
	cmd.Env = []string{"TASKROLE=app", "AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	var out bytes.Buffer
	begin = time.Now()
	err = doctor.Run(t.Context(), doctor.Query{PID: cmd.Process.Pid, ConfigPath: config, JSON: true}, &out)
	var r doctor.Report
	if d := time.Since(begin); fault.CodeOf(err) != fault.DoctorFindings || d > 3*time.Second || json.Unmarshal(out.Bytes(), &r) != nil {
		t.Fatalf("%v after %v: %s", err, d, out.String())
	}
	if !slices.Equal(codes(r), []string{"agent-down"}) {
		t.Errorf("%s", out.String())
	}
	if err := <-audited; fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("the audit: %v", err)
	}
}

func codes(r doctor.Report) (all []string) {
	for _, f := range r.Findings {
		all = append(all, string(f.Code))
	}
	return all
}
