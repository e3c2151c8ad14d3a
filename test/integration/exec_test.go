//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"taskrole/lab/cloud"
)

// onHost runs a program on the simulated instance, outside every container. env is added to a plain environment.
func (w *world) onHost(tb testing.TB, env []string, words ...string) (stdout, stderr string, exit int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.WaitDelay = time.Second // after which whoever still holds its output is left alone, and the test fails
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "DOCKER_HOST=" + w.docker.Host()}, append(w.environment(), env...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := w.instance.Start(cmd); err != nil {
		tb.Fatal(err)
	}
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		tb.Fatalf("%q: %v: %s", words, err, said.String())
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// lonely is a configuration whose agent does not run.
func (w *world) lonely(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "config.yaml")
	text := strings.Replace(w.config(), w.socket(), filepath.Join(w.dir, "lonely/agent.sock"), 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// awsWithProfile runs Debian's aws by `taskrole exec`, for a user whose ~/.aws has a [default] profile, which would win
// over every endpoint.
const awsWithProfile = `mount -t tmpfs none "$TREE/root" && mkdir "$TREE/root/.aws" &&
printf '[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = of-the-file\n' >"$TREE/root/.aws/credentials" &&
exec "$TASKROLE" exec --config "$CONFIG" "$@"`

func TestExecGivesAHostProcessTheRole(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	for name, config := range map[string]string{"agent": w.configPath(), "no agent": w.lonely(t)} {
		t.Run(name, func(t *testing.T) {
			env := []string{"TREE=" + tree("client"), "TASKROLE=" + bin("taskrole"), "CONFIG=" + config}
			if name == "agent" { // else they would be the identity that AWS is asked with
				env = append(env, "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=of-the-environment")
			}
			aws := func(args ...string) (string, string, int) {
				words := append([]string{"unshare", "--mount", "sh", "-c", awsWithProfile, "sh", "reader", "--", "chroot", tree("client"), "aws"}, args...)
				return w.onHost(t, env, words...)
			}
			if out, said, exit := aws("--endpoint-url", w.instance.ServicesURL(), "sts", "get-caller-identity", "--query", "Arn", "--output", "text"); exit != 0 ||
				!strings.Contains(out, ":assumed-role/"+cloud.TaskReader+"/reader-exec") {
				t.Errorf("get-caller-identity: exit %d, %s%s", exit, out, said)
			}
			if out, said, exit := aws("--endpoint-url", w.instance.ServicesURL(), "s3", "ls"); exit != 0 || !strings.Contains(out, cloud.Reports) {
				t.Errorf("s3 ls: exit %d, %s%s", exit, out, said)
			}
		})
	}
}

// execAttack is what another user of the host tries: the command's environment, and its endpoint without the token.
const execAttack = `
as() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
if as cat /proc/$$/environ >/dev/null 2>&1; then echo read the environment; fi
echo "$AWS_CONTAINER_CREDENTIALS_FULL_URI"
exec 3<>"/dev/tcp/127.0.0.1/$(echo "$AWS_CONTAINER_CREDENTIALS_FULL_URI" | sed 's,.*:\([0-9]*\)/.*,\1,')"
printf 'GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: %s\r\nConnection: close\r\n\r\n' "${TOKEN-$AWS_CONTAINER_AUTHORIZATION_TOKEN}" >&3
cat <&3`

func TestExecEndpointIsForItsCommandOnly(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	attack := func(env ...string) string {
		out, said, exit := w.onHost(t, env, bin("taskrole"), "exec", "--config", w.configPath(), "writer", "--", "bash", "-c", execAttack)
		if exit != 0 || said != "" {
			t.Errorf("exit %d, %s", exit, said)
		}
		return out
	}
	if own := attack(); !strings.Contains(own, "200 OK") || !strings.Contains(own, "AccessKeyId") || strings.Contains(own, "read the environment") {
		t.Errorf("the command itself gets %s", own)
	}
	if other := attack("TOKEN=of-somebody-else"); !strings.Contains(other, "403 Forbidden") || strings.Contains(other, "AccessKeyId") || !strings.Contains(other, "authorization-invalid") {
		t.Errorf("without the token: %s", other)
	}
}

func TestExecLeavesNothingAndSaysWhatIsWrong(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	out, said, exit := w.onHost(t, nil, bin("taskrole"), "exec", "--config", w.configPath(), "-v", "reader", "--", "sh", "-c", "exit 9")
	if exit != 9 || !strings.Contains(said, "session reader-exec, from the agent") {
		t.Fatalf("exit %d, %s%s", exit, out, said)
	}
	eventually(t, func() error { return noCompanion(w.configPath()) })
	for name, c := range map[string]struct {
		words []string
		exit  int
		said  string
	}{
		"unknown role": {[]string{"raeder", "--", "true"}, 125, "did you mean reader"},
		"denied":       {[]string{"untrusted", "--", "true"}, 125, "[sts-denied]"},
		"no program":   {[]string{"reader", "--", "no-such-program"}, 127, "[command-missing]"},
		"no command":   {[]string{"reader"}, 125, "[usage]"},
	} {
		if out, said, exit := w.onHost(t, nil, append([]string{bin("taskrole"), "exec", "--config", w.configPath()}, c.words...)...); exit != c.exit || !strings.Contains(said, c.said) || out != "" {
			t.Errorf("%s: exit %d, %s%s, want %d and %s", name, exit, out, said, c.exit, c.said)
		}
	}
}
