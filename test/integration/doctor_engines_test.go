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
	"syscall"
	"testing"

	"taskrole/lab/ec2"
	"taskrole/lab/ec2/engineroot"
)

// TestDoctorByNameOnEveryEngine: the first article's failing case and the second's, and a container that is well, by
// all the names that the engine and people have for them.
func TestDoctorByNameOnEveryEngine(t *testing.T) {
	for _, e := range others {
		onOther(t, e.name, func(t *testing.T, w *world) {
			for _, c := range []struct {
				name string
				c    ec2.Container
				want string
			}{
				{"named-no-network", ec2.Container{Network: ec2.NetworkNone, Env: regions}, "imds-unreachable"},
				{"named-no-token", ec2.Container{Network: ec2.NetworkNone, Env: slices.Concat(session[:2], regions)}, "session-token-missing"},
				{"named-well", ec2.Container{Network: ec2.NetworkNone, Role: "reader", Env: regions}, ""},
			} {
				c.c.Name = c.name
				id := w.live(t, c.c)
				names := []string{c.name, string(w.kind) + ":" + c.name, id}
				if w.kind == engineroot.Podman {
					names = append(names, id[:7])
				} else {
					names = append(names, "containerd:default/"+id)
				}
				for _, name := range names {
					d := w.diagnose(t, "--sdk=all", name)
					if d.codes() != c.want || d.Role != c.c.Role || d.Subject.Engine != string(w.kind) || d.Subject.Container != c.name || d.Seconds > 2 {
						t.Errorf("%s: %+v; want %q, role %q", name, d, c.want, c.c.Role)
					}
				}
				text, _ := w.askDoctor(t, "doctor", "--config", w.configPath(), "--sdk=botocore", c.name)
				t.Logf("taskrole doctor %s:\n%s", c.name, text)
			}
			if out, exit := w.askFailing(t, "doctor", "--config", w.configPath(), "nobody"); exit != 1 || !strings.Contains(out, "[not-found]") {
				t.Errorf("a container that is not there: exit %d, %s", exit, out)
			}
		})
	}
}

// TestDoctorFindsNothingWrongWithTheHealthy on every engine, in every network mode, with a role and without.
func TestDoctorFindsNothingWrongWithTheHealthy(t *testing.T) {
	for _, e := range slices.Concat(engines, others) {
		onOther(t, e.name, func(t *testing.T, w *world) {
			t.Parallel() // with the other engines
			alone := w.live(t, ec2.Container{Network: ec2.NetworkNone, Options: confined, Env: session, Name: "healthy-alone"})
			networks := []ec2.Network{ec2.NetworkNone, ec2.NetworkBridge, ec2.NetworkHost, ec2.Network("container:" + alone)}
			if w.kind != engineroot.Containerd {
				w.must(t, "network", "create", "--internal", "healthy-internal")
				t.Cleanup(func() { _, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "network", "rm", "healthy-internal") })
				networks = append(networks, ec2.NetworkCustom, "healthy-internal")
			}
			if w.kind == engineroot.Podman {
				w.must(t, "pod", "create", "--name=healthy", "--network=none", "--cgroup-parent=/"+w.docker.Cgroup()+"/c")
				t.Cleanup(func() {
					_, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "pod", "rm", "--force", "--time=0", "healthy")
				})
				networks = append(networks, pod)
			}
			worst := 0.0
			for n, network := range networks {
				for role, c := range w.healthy(network) {
					c.Env = append(slices.Clone(c.Env), regions...)
					c.Name = fmt.Sprintf("healthy-%d%s", n, role)
					id := w.live(t, c)
					role, late := strings.CutPrefix(role, "late-")
					if late {
						(cell{world: w}).gets(t, id, role)
					}
					for _, args := range [][]string{{c.Name, "--sdk=all"}, {c.Name}} {
						d := w.diagnose(t, args...)
						if len(d.Findings) > 0 || d.Role != role || d.Seconds > 2 {
							t.Errorf("%s %q, %q: %.2f s, %+v", network, role, args, d.Seconds, d)
						}
						worst = max(worst, d.Seconds)
					}
				}
			}
			t.Logf("%s: %d networks with and without a role, nothing found; the slowest took %.2f s", w.docker.Name(), len(networks), worst)
		})
	}
}

// pod is a network of Podman's: that of the pod healthy.
const pod ec2.Network = "pod"

// healthy are the ways to have credentials on a network, by role.
func (w *world) healthy(network ec2.Network) map[string]ec2.Container {
	options := confined
	if network == pod {
		network, options = "", append(slices.Clone(confined), "--pod=healthy")
	}
	all := map[string]ec2.Container{
		"reader": {Network: network, Options: options, Role: "reader"},
		"":       {Network: network, Options: options, Env: session},
	}
	if shared := network == ec2.NetworkHost || strings.HasPrefix(string(network), "container:"); w.kind == engineroot.Docker && !shared {
		all["late-reader"] = ec2.Container{Network: network, Options: options, Labels: map[string]string{"taskrole": "reader"}}
	}
	return all
}

// TestDoctorOverIPv6: where Docker 20.10 has switched it off, and where it is on, with a role and without.
func TestDoctorOverIPv6(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		mode := append([]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}, regions...)
		full := append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://[fd00:ec2::23]/v1/credentials"}, regions...)
		off := w.version == "20.10."
		for _, c := range []struct {
			name, off, on string
			c             ec2.Container
		}{
			{"role", "", "", ec2.Container{Network: ec2.NetworkNone, Role: "reader", Env: mode}},
			{"metadata", "ipv6-off", "imds-unreachable", ec2.Container{Env: mode}},
			{"full-uri", "ipv6-off", "container-endpoint-unreachable", ec2.Container{Network: ec2.NetworkNone, Env: full}},
			{"switched-on", "container-endpoint-unreachable", "container-endpoint-unreachable", ec2.Container{
				Network: ec2.NetworkNone, Env: full, Options: []string{"--sysctl=net.ipv6.conf.all.disable_ipv6=0"},
			}},
		} {
			c.c.Name = "ipv6-" + c.name
			want := c.on
			if off {
				want = c.off
			}
			d := w.diagnose(t, "--sdk=go-v2", w.live(t, c.c))
			if d.codes() != want {
				t.Errorf("%s: found %q, want %q: %+v", c.name, d.codes(), want, d)
			}
			if evidence := fmt.Sprintf("%+v", d.Findings); strings.HasPrefix(want, "ipv6-off") && !strings.Contains(evidence, "net.ipv6.conf.lo.disable_ipv6 is 1") {
				t.Errorf("%s: the evidence is %s", c.name, evidence)
			}
		}
	})
}

// askFailing runs taskrole in the instance and returns all that it printed.
func (w *world) askFailing(tb testing.TB, args ...string) (out string, exit int) {
	tb.Helper()
	cmd, buffer := w.command(args...)
	if err := w.instance.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is the answer
	return buffer.String(), cmd.ProcessState.ExitCode()
}

// TestAuditKnowsEveryEngine: by Podman's word, and by the monitors of containers that nobody vouches for.
func TestAuditKnowsEveryEngine(t *testing.T) {
	for _, e := range others {
		onOther(t, e.name, func(t *testing.T, w *world) {
			w.live(t, ec2.Container{Network: ec2.NetworkNone, Name: "audit-keys", Env: []string{"AWS_ACCESS_KEY_ID=" + theAKIA, session[1]}})
			w.live(t, ec2.Container{Network: ec2.NetworkNone, Name: "audit-role", Role: "reader"})
			want := "long-lived-key container audit-keys AKIA…5678, task-role container audit-role reader"
			if w.kind == engineroot.Podman {
				w.must(t, "create", "--name=audit-made", "--network=none", "--env="+session[0], "probe", "env", theAKIA)
				w.must(t, "commit", "--change=ENV AWS_ACCESS_KEY_ID="+theAKIA, "audit-made", "audit-image")
				t.Cleanup(func() {
					_, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rm", "-f", "audit-made")
					_, _ = w.docker.Exec(context.WithoutCancel(t.Context()), "rmi", "audit-image")
				})
				want = "long-lived-key container audit-keys AKIA…5678, long-lived-key image localhost/audit-image:latest AKIA…5678, " +
					"temporary-key container audit-made ASIA…1234, task-role container audit-role reader"
			} else {
				want = strings.ReplaceAll(want, "audit-", "default/audit-")
			}
			out, exit := w.askDoctor(t, "audit", "--json=1", "--config", w.configPath())
			var list struct {
				Holdings []struct{ Kind, Engine, Name, Rule, Identity, How string }
			}
			check(t, json.Unmarshal(out, &list))
			var got []string
			for _, h := range list.Holdings {
				line := strings.Join([]string{h.Rule, h.Kind, h.Name, h.Identity}, " ")
				if h.Engine == string(w.kind) && strings.Contains(h.Name, "audit-") && !slices.Contains(got, line) {
					got = append(got, line)
				}
			}
			if strings.Join(got, ", ") != want || exit != 1 {
				t.Errorf("exit %d, %s; want %s\n%s", exit, strings.Join(got, ", "), want, out)
			}
			people, _ := w.askDoctor(t, "audit", "--config", w.configPath())
			t.Logf("taskrole audit:\n%s", people)
			for _, text := range []string{string(out), string(people)} {
				if strings.Contains(text, theSecret) || strings.Contains(text, theAKIA) {
					t.Errorf("a secret or a whole key id is in the audit: %s", text)
				}
			}
		})
	}
}

// TestDoctorWithoutAgentAndEngine: neither answers, and the monitor or the cgroup knows the container.
func TestDoctorWithoutAgentAndEngine(t *testing.T) {
	for _, e := range []string{"docker-28.5", "podman-5.8"} {
		onOther(t, e, func(t *testing.T, w *world) {
			id := w.live(t, ec2.Container{Network: ec2.NetworkNone, Name: "alone", Env: slices.Concat(session[:2], regions)})
			config := filepath.Join(t.TempDir(), "config.yaml")
			text := strings.NewReplacer(w.socket(), "/nowhere/agent.sock", w.docker.Host(), "none",
				`{name: "keeper-*"}`, "{any: true}", "    task_metadata: true\n", "").Replace(w.config()) // without what needs an engine's word
			check(t, os.WriteFile(config, []byte(text), 0o600))
			names := []string{id, string(w.kind) + ":" + id[:12], "oci:" + id, fmt.Sprintf("--pid=%d", w.pid(t, id))}
			if w.kind == engineroot.Podman {
				names = append(names, "alone")
			}
			for _, name := range names {
				out, exit := w.askDoctor(t, "doctor", "--json", "--sdk=go-v2", "--config", config, name)
				var d diagnosis
				check(t, json.Unmarshal(out, &d))
				if exit != 1 || d.codes() != "session-token-missing" || strings.Contains(strings.Join(d.Unseen, "\n"), "configuration") {
					t.Errorf("%s: exit %d, %s", name, exit, out)
				}
			}
		})
	}
}

// TestDoctorOfAUsersOwnContainer: root sees it by its name, and its user without root, as far as the kernel lets them.
func TestDoctorOfAUsersOwnContainer(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		name := "theirs"
		script := strings.Replace(rootless, "/probe get http://169.254.170.2/v2/credentials/any", "/probe sleep 10m", 1)
		cmd := exec.Command("nsenter", "--mount="+filepath.Dir(w.docker.Root())+"/ns/mnt", "/bin/sh", "-c", script, "sh", filepath.Dir(w.docker.Log()),
			w.docker.Cgroup(), bin("taskrole-lab-probe"), "--name="+name+" --env="+session[0]+" --env="+session[1]+" --env="+regions[0]+" --env="+regions[1])
		var out bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, &out, &out
		check(t, w.instance.Start(cmd))
		var found diagnosis
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }() // how it ends does not matter
		t.Cleanup(func() {
			if found.Subject.PID > 0 {
				check(t, syscall.Kill(found.Subject.PID, syscall.SIGKILL))
			} else {
				_ = cmd.Process.Kill()
			}
			<-ended
		})
		eventually(t, func() error {
			if said, exit := w.askFailing(t, "doctor", "--json", "--config", w.configPath(), name); exit != 1 || json.Unmarshal([]byte(said[:strings.LastIndexByte(said, '}')+1]), &found) != nil {
				return fmt.Errorf("%s %s", said, out.String())
			}
			return nil
		})
		if found.codes() != "session-token-missing" || found.Subject.Engine != "podman" || found.Subject.EngineUser != 1000 {
			t.Errorf("as root: %+v", found)
		}

		config := filepath.Join(t.TempDir(), "config.yaml")
		check(t, os.Chmod(filepath.Dir(filepath.Dir(config)), 0o755))
		check(t, os.WriteFile(config, []byte(strings.Replace(w.config(), w.docker.Host(), "none", 1)), 0o644))
		for _, args := range [][]string{{name}, {fmt.Sprintf("--pid=%d", found.Subject.PID)}} {
			d := w.asUser(t, append([]string{"doctor", "--json", "--config", config}, args...)...)
			if d.codes() != "session-token-missing" || d.Subject.Container != name || !strings.Contains(strings.Join(d.Unseen, "\n"), "network namespace: operation not permitted; run it as root") {
				t.Errorf("as their user, %q: %+v", args, d)
			}
		}
	})
}

// asUser runs taskrole as somebody without rights, who need not be able to reach the program's directory.
func (w *world) asUser(t *testing.T, args ...string) (d diagnosis) {
	t.Helper()
	program, err := os.Open(bin("taskrole"))
	check(t, err)
	defer program.Close()
	cmd := exec.Command("/usr/bin/setpriv", append([]string{"--reuid=1000", "--regid=1000", "--clear-groups", "/proc/self/fd/3"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", &out, &errs, []*os.File{program}
	check(t, w.instance.Start(cmd))
	_ = cmd.Wait() // the exit code follows from the findings
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), errs.String())
	}
	return d
}
