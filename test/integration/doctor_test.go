//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"taskrole/internal/netns"
	"taskrole/lab/ec2"
)

// diagnosis is what taskrole doctor --json prints, as far as the tests look.
type diagnosis struct {
	Role     string
	Findings []finding
	Chains   []struct {
		SDK, Source, Detail string
	}
	Unseen  []string
	Seconds float64
}

type finding struct {
	Code, Severity, What string
	Evidence             []string
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
	var out, errs bytes.Buffer
	cmd := exec.Command(bin("taskrole"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := w.instance.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is the answer
	if out.Len() == 0 {
		tb.Fatalf("taskrole %s printed nothing: %s", strings.Join(args, " "), errs.String())
	}
	return out.Bytes(), cmd.ProcessState.ExitCode()
}

func (w *world) diagnose(tb testing.TB, args ...string) diagnosis {
	tb.Helper()
	out, exit := w.askDoctor(tb, append([]string{"doctor", "--json", "--config", w.configPath()}, args...)...)
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

// injected is one condition.
type injected struct {
	name  string
	want  string // the code, or "" for a container that is well
	c     ec2.Container
	plain bool // without the regions
	// serve answers in the container's own namespace at an address.
	serve map[string]http.HandlerFunc
	// during changes the world around the diagnosis and returns how to change it back.
	during func(*testing.T, *world, string) func()
	source string // of Go v2's credentials, if it matters
}

func conditions(files string) []injected {
	relative := "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/x"
	return []injected{
		{name: "token forgotten", want: "session-token-missing", c: ec2.Container{Env: session[:2]}},
		{name: "secret forgotten", want: "credentials-partial", c: ec2.Container{Env: session[:1]}},
		{name: "long-lived key", want: "keys-long-lived", c: ec2.Container{Env: []string{"AWS_ACCESS_KEY_ID=" + theAKIA, session[1]}}},
		{name: "no network", want: "imds-unreachable", c: ec2.Container{Network: ec2.NetworkNone}},
		{name: "host's role", want: "host-role", c: ec2.Container{}, source: "instance metadata"},
		{name: "URI copied from ECS", want: "container-endpoint-unreachable", c: ec2.Container{Network: ec2.NetworkNone, Env: []string{relative}}},
		{
			name: "file over the role", want: "file-shadows-role",
			c: ec2.Container{Role: "reader", Files: map[string]string{filepath.Join(files, "credentials"): "/root/.aws/credentials"}, Env: []string{"HOME=/root"}},
		},
		{
			name: "hop limit", want: "imds-hop-limit", c: ec2.Container{},
			during: func(t *testing.T, w *world, _ string) func() {
				w.cloud.SetTokensRequired(true)
				check(t, w.cloud.SetHopLimit(1))
				return func() { w.cloud.SetTokensRequired(false); check(t, w.cloud.SetHopLimit(2)) }
			},
		},
		{
			name: "agent dead", want: "agent-down", c: ec2.Container{Role: "reader"},
			during: func(t *testing.T, w *world, _ string) func() {
				check(t, w.stopAgent(os.Kill))
				return func() { check(t, w.startAgent(t.Context())) }
			},
		},
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// writeFiles makes the files that conditions mount.
func writeFiles(t *testing.T, w *world) string {
	t.Helper()
	dir := filepath.Join(w.dir, "run", "doctor") // the engine sees this directory
	check(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, text := range map[string]string{
		"credentials": "[default]\naws_access_key_id = " + theASIA + "\naws_secret_access_key = " + theSecret + "\naws_session_token = " + theToken + "\n",
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// inject starts the container of a condition and returns its id.
func (w *world) inject(t *testing.T, i injected) string {
	t.Helper()
	c := i.c
	c.Image, c.Detach, c.Args = "probe", true, []string{"sleep", "10m"}
	c.Name = "doctor-" + strings.NewReplacer(" ", "-", "'", "").Replace(strings.ToLower(i.name))
	if c.Role != "" {
		c.Way = w.way
	}
	if !i.plain {
		c.Env = append(slices.Clone(c.Env), regions...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rm", "-f", "-v", c.Name) })
	if _, err := w.docker.Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	if len(i.serve) > 0 {
		w.serveInside(t, c.Name, i.serve)
	}
	return c.Name
}

// serveInside answers in a container's network namespace.
func (w *world) serveInside(t *testing.T, id string, handlers map[string]http.HandlerFunc) {
	t.Helper()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", w.pid(t, id)))
	check(t, err)
	defer ns.Close()
	for addr, h := range handlers {
		l, err := netns.Do(ns, func() (net.Listener, error) { return net.Listen("tcp4", addr) })
		check(t, err)
		s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
}

// TestDoctorNamesTheInjectedCause is the proof that doctor does not guess: every condition is made with a real
// container, and the report must name exactly it.
func TestDoctorNamesTheInjectedCause(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		files := writeFiles(t, w)
		var matrix strings.Builder
		for _, i := range conditions(files) {
			id := w.inject(t, i)
			restore := func() {}
			if i.during != nil {
				restore = i.during(t, w, id)
			}
			d := w.diagnose(t, "--sdk=all", id)
			restore()
			fmt.Fprintf(&matrix, "%-28s %-28s %-28s %4.0f ms\n", i.name, i.want, d.codes(), d.Seconds*1000)
			if d.codes() != i.want {
				t.Errorf("%s: found %q, want exactly %q: %+v", i.name, d.codes(), i.want, d)
			}
			if i.source != "" && !slices.ContainsFunc(d.Chains, func(c struct{ SDK, Source, Detail string }) bool {
				return c.SDK == "go-v2" && c.Source == i.source
			}) {
				t.Errorf("%s: chains %+v, want Go v2 to have credentials from %s", i.name, d.Chains, i.source)
			}
			if d.Seconds > 5 {
				t.Errorf("%s took %.1f s", i.name, d.Seconds)
			}
		}
		t.Logf("injected × reported on %s:\n%s", w.name, matrix.String())
	})
}

// TestDoctorFindsNothingWrongWithTheHealthy in every network mode, with a role and without.
func TestDoctorFindsNothingWrongWithTheHealthy(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		var all []injected
		for _, n := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkNone} {
			all = append(all, injected{name: "role " + string(n), c: ec2.Container{Network: n, Role: "reader"}})
		}
		for _, n := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkNone, ec2.NetworkHost} {
			all = append(all, injected{name: "session " + string(n), c: ec2.Container{Network: n, Env: session}})
		}
		for _, i := range all {
			id := w.inject(t, i)
			for _, args := range [][]string{{id, "--sdk=all"}, {id}} {
				if d := w.diagnose(t, args...); len(d.Findings) > 0 || d.Seconds > 2 {
					t.Errorf("%s: %q: %.2f s, findings %+v", i.name, args, d.Seconds, d.Findings)
				}
			}
		}
	})
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
