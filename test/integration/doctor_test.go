//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// diagnosis is what taskrole doctor --json prints, as far as the tests look.
type diagnosis struct {
	Subject struct {
		Container, Engine string
		EngineUser        int `json:"engine_user"`
		PID               int
	}
	Role     string
	Findings []finding
	Chains   []chain
	Unseen   []string
	Seconds  float64
}

type chain struct{ SDK, Source, Detail string }

type finding struct {
	Code, Severity, What, Fix, Manual string
	Evidence, Commands                []string
	Paste                             []struct{ Where, Text string }
}

func (d diagnosis) codes() string {
	var codes []string
	for _, f := range d.Findings {
		codes = append(codes, f.Code)
	}
	return strings.Join(codes, " ")
}

// askDoctor runs taskrole in the instance and returns what it printed.
func (w *world) askDoctor(tb testing.TB, args ...string) (stdout []byte, exit int) {
	tb.Helper()
	var out bytes.Buffer
	cmd, errs := w.command(args...)
	cmd.Stdout = &out
	if err := w.instance.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is the answer
	if out.Len() == 0 {
		tb.Fatalf("taskrole %s printed nothing: %s", strings.Join(args, " "), errs.String())
	}
	return out.Bytes(), cmd.ProcessState.ExitCode()
}

// command is taskrole with these words, and where what it prints goes.
func (w *world) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	out := &bytes.Buffer{}
	words := slices.Concat(w.doctorThrough, []string{bin("taskrole")}, args)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func (w *world) diagnose(tb testing.TB, args ...string) diagnosis {
	tb.Helper()
	return w.diagnoseBy(tb, w.configPath(), args...)
}

// diagnoseBy is diagnose with another configuration.
func (w *world) diagnoseBy(tb testing.TB, config string, args ...string) diagnosis {
	tb.Helper()
	out, exit := w.askDoctor(tb, append([]string{"doctor", "--json", "--config", config}, args...)...)
	var d diagnosis
	if err := json.Unmarshal(out, &d); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	wrong := slices.ContainsFunc(d.Findings, func(f finding) bool { return f.Severity == "error" })
	if (exit == 1) != wrong {
		tb.Errorf("exit %d with the findings %s", exit, d.codes())
	}
	for _, text := range []string{theSecret, theToken} {
		if bytes.Contains(out, []byte(text)) {
			tb.Errorf("a secret is in the report: %s", out)
		}
	}
	return d
}

// Values that must never be printed.
const (
	theSecret = "wJalrXUtnFEMI-not-a-secret-key"
	theToken  = "IQoJb3JpZ2luX2Vj-not-a-token"
	theASIA   = "ASIAEXAMPLE00001234"
	theAKIA   = "AKIAEXAMPLE00005678"
)

// regions keep region-missing away from what is looked at.
var regions = []string{"AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1"}

// session is a complete set of temporary credentials.
var session = []string{"AWS_ACCESS_KEY_ID=" + theASIA, "AWS_SECRET_ACCESS_KEY=" + theSecret, "AWS_SESSION_TOKEN=" + theToken}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// TestDoctorByProcessNumber works without an engine and says which SDK is in the program.
func TestDoctorByProcessNumber(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	id := w.live(t, ec2.Container{Role: "reader", Network: ec2.NetworkNone})
	d := w.diagnose(t, fmt.Sprintf("--pid=%d", w.pid(t, id)))
	if d.Role != "reader" || len(d.Chains) != 1 || d.Chains[0].SDK != "go-v2" || d.Chains[0].Source != "container endpoint" {
		t.Errorf("%+v, want the chain of Go v2 alone, and the role reader", d)
	}
}

// TestAuditListsWhoHasWhat: containers, running and not, and images, with their history.
func TestAuditListsWhoHasWhat(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.prepare(t)
	long := []string{"AWS_ACCESS_KEY_ID=" + theAKIA, session[1]}
	w.startTogether(t, []injected{
		{name: "audit keys", c: with(long...)},
		{name: "audit role", c: ec2.Container{Role: "reader", Network: ec2.NetworkNone}},
		{name: "audit host", c: with()},
		{name: "audit file", c: ec2.Container{Network: ec2.NetworkNone, Env: []string{"HOME=/root"}}, mount: map[string]string{"/root/.aws/credentials": "session"}},
	})
	// One whose command holds a key, and an image of it: the key is in the image's history for good.
	w.must(t, "create", "--name=doctor-audit-made", "--network=none", "--env="+session[0], "probe", "env", theAKIA)
	w.removeLater(t, "doctor-audit-made")
	w.must(t, "commit", "--change=ENV AWS_ACCESS_KEY_ID="+theAKIA, "doctor-audit-made", "audit-image")
	t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rmi", "audit-image") })

	out, exit := w.askDoctor(t, "audit", "--json", "--config", w.configPath())
	var list struct {
		Holdings []struct{ Kind, Name, Rule, Identity, How string }
	}
	check(t, json.Unmarshal(out, &list))
	var got []string
	for _, h := range list.Holdings {
		if strings.Contains(h.Name, "audit") {
			got = append(got, strings.Join([]string{h.Rule, h.Kind, strings.TrimPrefix(h.Name, "doctor-"), h.Identity}, " "))
		}
	}
	want := []string{
		"long-lived-key container audit-keys AKIA…5678", "long-lived-key image audit-image:latest AKIA…5678", "long-lived-key image audit-image:latest AKIA…5678",
		"temporary-key container audit-file ASIA…1234", "temporary-key container audit-made ASIA…1234",
		"host-role container audit-host " + cloud.InstanceRole, "host-role container audit-keys " + cloud.InstanceRole,
		"task-role container audit-role reader",
	}
	if diff := cmp.Diff(want, got); diff != "" || exit != 1 {
		t.Errorf("exit %d, %s\n%s", exit, diff, out)
	}
	sarif, _ := w.askDoctor(t, "audit", "--sarif", "--config", w.configPath())
	people, _ := w.askDoctor(t, "audit", "--config", w.configPath())
	for _, text := range [][]byte{out, sarif, people} {
		if bytes.Contains(text, []byte(theSecret)) || bytes.Contains(text, []byte(theAKIA)) || bytes.Contains(text, []byte(theToken)) {
			t.Errorf("a secret or a whole key id is in the audit: %s", text)
		}
	}
	if !bytes.Contains(sarif, []byte(`"version": "2.1.0"`)) || !bytes.Contains(sarif, []byte(`"uri": "docker/image/audit-image:latest"`)) {
		t.Errorf("SARIF: %s", sarif)
	}
	t.Logf("taskrole audit:\n%s", people)
}

// TestDoctorKnowsPodmansContainersByTheirProcess needs nothing of the engine.
func TestDoctorKnowsPodmansContainersByTheirProcess(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		for _, c := range []struct {
			role string
			env  []string
			want string
		}{{"reader", nil, ""}, {"", session, ""}, {"", session[:2], "session-token-missing"}} {
			id := w.live(t, ec2.Container{Role: c.role, Network: ec2.NetworkNone, Env: append(c.env, regions...)})
			d := w.diagnose(t, fmt.Sprintf("--pid=%d", w.pid(t, id)), "--sdk=all")
			if d.codes() != c.want || d.Role != c.role {
				t.Errorf("role %q, environment %d: role %q, findings %+v; want %q", c.role, len(c.env), d.Role, d.Findings, c.want)
			}
		}
	})
}

// TestDoctorOfTheHost: the agent, the configuration and the engine.
func TestDoctorOfTheHost(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	if d := w.diagnose(t); len(d.Findings) > 0 {
		t.Errorf("a host that is well: %+v", d.Findings)
	}
	broken := filepath.Join(t.TempDir(), "config.yaml")
	check(t, os.WriteFile(broken, []byte("roles: {}\nengines: {docker: unix:///nowhere}\n"), 0o600))
	out, exit := w.askDoctor(t, "doctor", "--config", broken)
	if exit != 1 || !bytes.Contains(out, []byte("[config-invalid]")) || !bytes.Contains(out, []byte("config.yaml:1:")) {
		t.Errorf("exit %d, %s; want the problem with its place", exit, out)
	}
	elsewhere := filepath.Join(t.TempDir(), "config.yaml")
	config := strings.NewReplacer(w.socket(), "/nowhere/agent.sock", w.docker.Host(), "unix:///nowhere.sock").Replace(w.config())
	check(t, os.WriteFile(elsewhere, []byte(config), 0o600))
	out, exit = w.askDoctor(t, "doctor", "--config", elsewhere)
	if exit != 1 || !bytes.Contains(out, []byte("[agent-down]")) || !bytes.Contains(out, []byte("[engine-unreachable]")) {
		t.Errorf("exit %d, %s; want agent and engine named", exit, out)
	}
}
