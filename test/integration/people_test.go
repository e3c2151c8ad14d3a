//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// taskrole runs taskrole in the instance, with the agent's configuration.
func (w *world) taskrole(tb testing.TB, args ...string) ec2.Result {
	tb.Helper()
	return w.host(tb, nil, append(append([]string{bin("taskrole")}, args...), "--config="+w.configPath())...)
}

// host is onHost with the result of a container.
func (w *world) host(tb testing.TB, env []string, words ...string) ec2.Result {
	tb.Helper()
	stdout, stderr, exit := w.onHost(tb, env, words...)
	return ec2.Result{Exit: exit, Stdout: []byte(stdout), Stderr: []byte(stderr)}
}

func TestRolesAreTriedAtAWS(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	r := w.taskrole(t, "roles", "--check")
	out := string(r.Stdout)
	for _, want := range []string{"ok      reader     arn:aws:iam::123456789012:role/task-s3-reader\n", "FAILED  untrusted  ", "[sts-denied]\n        hint: let its trust policy name "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if r.Exit != 1 || !strings.Contains(string(r.Stderr), "taskrole: error: 1 of ") {
		t.Errorf("exit %d, stderr %s", r.Exit, r.Stderr)
	}
}

// A container without a role gets a snapshot of one by docker's own --env-file.
func TestEnvForDockersEnvFile(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		r := w.taskrole(t, "env", "reader", "--format", "docker")
		if r.Exit != 0 || len(r.Stderr) > 0 {
			t.Fatalf("exit %d, stderr %s", r.Exit, r.Stderr)
		}
		file := filepath.Join(w.dir, "run", "reader.env") // where the engine sees it too
		if err := os.WriteFile(file, r.Stdout, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file)
		args := []string{"run", "--rm", "--pull=never", "--network=bridge", "--env-file=" + file}
		for _, kv := range w.environment() {
			args = append(args, "--env="+kv)
		}
		got, err := w.docker.Exec(t.Context(), append(args, "probe", "identity")...)
		if err != nil {
			t.Fatal(err)
		}
		if who := whoAmI(t, got); !strings.HasSuffix(who.ARN, ":assumed-role/"+cloud.TaskReader+"/reader-env") {
			t.Errorf("the container is %+v", who)
		}
		if log := w.log(); !strings.Contains(log, `"credentials handed out","role":"reader","use":"env","uid":0`) {
			t.Errorf("nothing in the log says who took them:\n%s", log)
		}
	})
}

// Two SDKs run taskrole themselves, as a profile's credential_process.
func TestEnvAsCredentialProcess(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	profile := func(program, config string) string {
		return fmt.Sprintf("[profile reader]\ncredential_process = %s env reader --format process --config %s\n", program, config)
	}
	env := func(file string) []string {
		return []string{"AWS_CONFIG_FILE=" + file, "AWS_PROFILE=reader", "AWS_EC2_METADATA_DISABLED=true"}
	}
	t.Run("go", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(profile(bin("taskrole"), w.configPath())), 0o600); err != nil {
			t.Fatal(err)
		}
		r := w.host(t, env(file), bin("taskrole-lab-probe"), "identity")
		if who := whoAmI(t, r); !strings.HasSuffix(who.ARN, "/reader-env") {
			t.Errorf("the client is %+v: %s", who, r.Stderr)
		}
	})
	t.Run("aws", func(t *testing.T) {
		root := tree("client") // Debian's aws lives there; the agent's directory and our programs are put in its way
		w.bind(t, filepath.Dir(bin("taskrole")), filepath.Join(root, "opt"))
		w.bind(t, w.dir, filepath.Join(root, "mnt"))
		config := strings.ReplaceAll(w.config(), "socket: "+w.dir, "socket: /mnt")
		for name, text := range map[string]string{"inside.yaml": config, "aws": profile("/opt/taskrole", "/mnt/inside.yaml")} {
			file := filepath.Join(w.dir, name)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(file)
		}
		r := w.host(t, env("/mnt/aws"), "chroot", root, "aws", "--endpoint-url", w.instance.ServicesURL(), "sts", "get-caller-identity", "--query", "Arn", "--output", "text")
		if !strings.HasSuffix(strings.TrimSpace(string(r.Stdout)), "/reader-env") {
			t.Errorf("exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
		}
	})
}

// bind mounts a directory on another until the test ends. It is seen here alone: the tests have their own mounts.
func (w *world) bind(tb testing.TB, from, to string) {
	tb.Helper()
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(to, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
}

// The instance's own role, without agent or configuration.
func TestEnvOfTheInstance(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	r := w.host(t, nil, bin("taskrole"), "env", "--instance", "--format", "json")
	env := map[string]string{}
	if err := json.Unmarshal(r.Stdout, &env); err != nil || r.Exit != 0 {
		t.Fatalf("exit %d, stdout %s, stderr %s: %v", r.Exit, r.Stdout, r.Stderr, err)
	}
	words := []string{"AWS_EC2_METADATA_DISABLED=true"}
	for name, value := range env {
		words = append(words, name+"="+value)
	}
	r = w.host(t, words, bin("taskrole-lab-probe"), "identity")
	if who := whoAmI(t, r); !strings.Contains(who.ARN, ":assumed-role/"+cloud.InstanceRole+"/") {
		t.Errorf("the client is %+v: %s", who, r.Stderr)
	}
}
