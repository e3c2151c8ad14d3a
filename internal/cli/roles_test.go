package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// fakeAgent answers as an agent would.
type fakeAgent struct {
	control.Handler

	list        control.ListReply
	roles       []control.Role
	check       map[string]error
	credentials func(r control.CredentialsRequest) (control.CredentialsReply, error)
}

func (f fakeAgent) List(context.Context) (control.ListReply, error) { return f.list, nil }

func (f fakeAgent) Roles(context.Context) ([]control.Role, error) { return f.roles, nil }

func (f fakeAgent) Check(_ context.Context, role string) (control.CheckReply, error) {
	if err := f.check[role]; err != nil {
		return control.CheckReply{}, err
	}
	return control.CheckReply{Role: role, Session: role + "-check", Expires: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)}, nil
}

func (f fakeAgent) Credentials(_ context.Context, r control.CredentialsRequest, _ control.Peer) (control.CredentialsReply, error) {
	return f.credentials(r)
}

// writeConfig returns a configuration whose agent, if there is one, is at the socket in the same directory.
func writeConfig(t *testing.T) (config, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tr") //nolint:usetesting // the socket's path has room for 108 bytes only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config, socket = filepath.Join(dir, "config.yaml"), filepath.Join(dir, "agent.sock")
	text := fmt.Sprintf("account: 123456789012\nsocket: %s\nroles:\n  written: {allow: [{any: true}]}\n", socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, socket
}

// start serves f and returns the configuration that leads to it.
func (f fakeAgent) start(t *testing.T) (config string) {
	t.Helper()
	config, socket := writeConfig(t)
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		control.Serve(ctx, l, f, slog.New(slog.DiscardHandler), control.WithOperator(f), control.WithPeers(func(uint32) error { return nil }))
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return config
}

var twoRoles = []control.Role{
	{Name: "reader", ARN: "arn:aws:iam::123456789012:role/reader", Region: "eu-central-1", Session: "{role}-{id}", Allow: []string{`name "web-*"`, `image "nginx"`}},
	{Name: "writer", ARN: "arn:aws:iam::123456789012:role/writer", Session: "{role}-{id}", Allow: []string{"any container"}},
}

func TestRolesOfTheAgent(t *testing.T) {
	config := fakeAgent{roles: twoRoles}.start(t)
	r := run(t, nil, "roles", "--config", config)
	want := "ROLE\tARN\tALLOWED\tREGION\tSESSION\n" +
		"reader\tarn:aws:iam::123456789012:role/reader\tname \"web-*\"; image \"nginx\"\teu-central-1\t{role}-{id}\n" +
		"writer\tarn:aws:iam::123456789012:role/writer\tany container\t-\t{role}-{id}\n"
	if diff := cmp.Diff(result{0, want, ""}, r, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("taskrole roles (-want +got):\n%s", diff)
	}
	r = run(t, nil, "roles", "--json", "--config", config)
	var answer struct{ Roles []control.Role }
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil || cmp.Diff(twoRoles, answer.Roles) != "" {
		t.Errorf("taskrole roles --json = %s, %v", r.stdout, err)
	}
}

func TestRolesWithoutAnAgentAreThoseOfTheFile(t *testing.T) {
	config, socket := writeConfig(t)
	r := run(t, nil, "roles", "--config", config)
	if r.code != 0 || !strings.Contains(r.stdout, "\nwritten\tarn:aws:iam::123456789012:role/written\t") {
		t.Errorf("exit %d, %s", r.code, r.stdout)
	}
	if want := "taskrole: note: the taskrole agent does not answer at " + socket + "; these are the roles of " + config + "\n"; r.stderr != want {
		t.Errorf("stderr = %q, want %q", r.stderr, want)
	}
	r = run(t, nil, "roles", "--check", "--config", config)
	if r.code != fault.ExitFault || r.stdout != "" || !strings.Contains(r.stderr, "[agent-unreachable]\ntaskrole: hint: ") {
		t.Errorf("--check: exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
}

func TestRolesWithNeitherAgentNorFile(t *testing.T) {
	r := run(t, nil, "roles", "--config", filepath.Join(t.TempDir(), "none.yaml"))
	if r.code != fault.ExitFault || r.stdout != "" || !strings.HasPrefix(r.stderr, "taskrole: error: ") {
		t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
}

func TestCheckReportsEachRoleWithItsWayOut(t *testing.T) {
	denied := fault.New(fault.STSDenied, "AWS refuses the role", "let its trust policy name the host")
	config := fakeAgent{roles: twoRoles, check: map[string]error{"writer": denied}}.start(t)
	r := run(t, nil, "roles", "--check", "--config", config)
	want := result{
		fault.ExitFault,
		"ok      reader  arn:aws:iam::123456789012:role/reader\n" +
			"FAILED  writer  arn:aws:iam::123456789012:role/writer\n" +
			"        error: AWS refuses the role [sts-denied]\n" +
			"        hint: let its trust policy name the host\n",
		"taskrole: error: 1 of 2 roles cannot be assumed [sts-denied]\n" +
			"taskrole: hint: each has its own way out above; after the change, run the check again\n",
	}
	if diff := cmp.Diff(want, r, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("taskrole roles --check (-want +got):\n%s", diff)
	}
	r = run(t, nil, "roles", "--check", "--json", "--config", config)
	var answer struct {
		Roles []struct {
			Name  string
			Check struct {
				OK                         bool
				Code, Error, Hint, Session string
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil || len(answer.Roles) != 2 {
		t.Fatalf("--json = %s, %v", r.stdout, err)
	}
	if good := answer.Roles[0]; good.Name != "reader" || !good.Check.OK || good.Check.Session != "reader-check" {
		t.Errorf("reader: %+v", good)
	}
	if bad := answer.Roles[1].Check; bad.OK || bad.Code != "sts-denied" || bad.Hint == "" || r.code != fault.ExitFault {
		t.Errorf("writer: %+v, exit %d", bad, r.code)
	}
}

// known is what the doctor knows: of one denial.
func known(_ string, r control.Role, said string) (any, string) {
	if !strings.Contains(said, "not authorized") {
		return nil, ""
	}
	return map[string]string{"code": "sts-refused"}, "        let " + r.Name + " trust the host\n"
}

func TestCheckSaysWhatTheDoctorKnows(t *testing.T) {
	denied := fault.New(fault.STSDenied, "AWS refuses the role: not authorized", "a hint that knows less")
	config := fakeAgent{roles: twoRoles, check: map[string]error{"writer": denied}}.start(t)
	r := run(t, nil, "roles", "--check", "--config", config)
	if !strings.Contains(r.stdout, "[sts-denied]\n        let writer trust the host\n") || strings.Contains(r.stdout, "knows less") {
		t.Errorf("%s", r.stdout)
	}
	r = run(t, nil, "roles", "--check", "--json", "--config", config)
	if !strings.Contains(r.stdout, `"code": "sts-refused"`) {
		t.Errorf("%s", r.stdout)
	}
}

func TestCheckThatSucceedsSaysNothingMore(t *testing.T) {
	config := fakeAgent{roles: twoRoles}.start(t)
	if r := run(t, nil, "roles", "--check", "--config", config); r.code != 0 || strings.Count(r.stdout, "ok ") != 2 || r.stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
}
