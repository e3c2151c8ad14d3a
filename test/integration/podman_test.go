//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// TestPodmanTellsTheNameWhileItHoldsTheLock: a rule asks for the name while Podman starts the container.
func TestPodmanTellsTheNameWhileItHoldsTheLock(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		for _, way := range w.docker.WaysIn() {
			who := whoAmI(t, w.start(t, ec2.Container{Role: "keeper", Name: "keeper-" + string(way), Way: way}))
			if !strings.Contains(who.ARN, "assumed-role/"+cloud.TaskReader+"/") {
				t.Errorf("%s: keeper is %q (%s)", way, who.ARN, who.Errors.First())
			}
			before := len(w.log())
			// crun drops the hook's words, so they are looked for where the documentation says they are.
			if r := w.start(t, ec2.Container{Role: "keeper", Name: "other-" + string(way), Way: way}); r.Exit == 0 || len(r.Stdout) > 0 {
				t.Errorf("%s: another name started: %s", way, r.Stdout)
			}
			if said := w.log()[before:]; !strings.Contains(said, "role-not-allowed") || !strings.Contains(said, "other-"+string(way)) {
				t.Errorf("%s: the agent says %s", way, said)
			}
		}
	})
}

// TestPodmanTellsTheLabelsAndTheTask: rules may ask for labels, and a running container is told about itself.
func TestPodmanTellsTheLabelsAndTheTask(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		w.rewrite(t, strings.Replace(w.config(), `allow: [{name: "keeper-*"}]`, `allow: [{labels: {team: data}}]`, 1))
		w.reload(t)
		asks := func(labels map[string]string) error {
			r := w.start(t, ec2.Container{Role: "keeper", Labels: labels, Args: []string{"get", "http://169.254.170.2/v2/credentials/any"}})
			if r.Exit == 0 {
				wantCredentials(t, string(r.Stdout), cloud.TaskReader)
				return nil
			}
			return errors.New("the container was refused")
		}
		eventually(t, func() error { return asks(map[string]string{"team": "data"}) })
		if asks(map[string]string{"team": "none", "name": "data"}) == nil || asks(nil) == nil {
			t.Error("a container without the label has the role")
		}
		id := w.live(t, ec2.Container{Role: "reader", Name: "told"})
		if got := string(w.exec(t, id, "get", "http://169.254.170.2/v4/"+id+"/task").Stdout); !strings.Contains(got, "200 OK") || !strings.Contains(got, id) {
			t.Errorf("the task metadata: %.300s", got)
		}
	})
}

// TestPodmanPod: several containers behind one infra container, each with its own role, and one with none.
func TestPodmanPod(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		w.must(t, "pod", "create", "--name=pod", "--network=none", "--cgroup-parent=/"+w.docker.Cgroup()+"/c")
		t.Cleanup(func() {
			if r, err := w.docker.Exec(context.WithoutCancel(t.Context()), "pod", "rm", "--force", "--time=0", "pod"); err != nil || r.Exit != 0 {
				t.Errorf("podman pod rm: %v %s", err, r.Stderr)
			}
		})
		in := func(role string) ec2.Container {
			return ec2.Container{Role: role, Options: []string{"--pod=pod"}}
		}
		reader, writer, none := w.live(t, in("reader")), w.live(t, in("writer")), w.live(t, in(""))
		wantCredentials(t, w.credentialsOf(t, reader), cloud.TaskReader)
		wantCredentials(t, w.credentialsOf(t, writer), cloud.TaskWriter)
		wantNotTheirs(t, w.credentialsOf(t, none))
		wantRole(t, w.start(t, in("reader")), cloud.TaskReader)
	})
}

// rootless runs its arguments with a Podman of the user 1000, in the engine's root and cgroup.
const rootless = `set -e
echo $$ >"$1/cgroup/$2/d/cgroup.procs"
mkdir -p "$1/user/root" "$1/user/run"
cp "$3" "$1/user/root/probe"
chown -R 1000:1000 "$1/user"
chmod go+x "$1"
case $(getent passwd 1000) in '') echo "u:x:1000:1000::$1/user:/bin/sh" >>/etc/passwd ;; esac
cd /
exec setpriv --reuid=1000 --regid=1000 --clear-groups env -i HOME="$1/user" XDG_RUNTIME_DIR="$1/user/run" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	podman --root "$1/user/storage" --runroot "$1/user/run/r" --storage-driver vfs run --rm --cgroups=disabled --network=none \
	$4 --rootfs "$1/user/root" /probe get http://169.254.170.2/v2/credentials/any
`

// TestRootlessPodmanGetsNoRole: its hooks are the user's processes, and only root may talk to the agent.
func TestRootlessPodmanGetsNoRole(t *testing.T) {
	onOther(t, "podman-5.8", func(t *testing.T, w *world) {
		run := func(option string) string {
			var out bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "nsenter", "--mount="+filepath.Dir(w.docker.Root())+"/ns/mnt",
				"/bin/sh", "-c", rootless, "sh", filepath.Dir(w.docker.Log()), w.docker.Cgroup(), bin("taskrole-lab-probe"), option)
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
			cmd.Stdout, cmd.Stderr = &out, &out
			err := w.instance.Start(cmd)
			if err == nil {
				err = cmd.Wait()
			}
			if err == nil {
				t.Errorf("%q succeeded", option)
			}
			return out.String()
		}
		// The first proves that such a container does start, and reaches nobody.
		if got := run(""); !strings.Contains(got, "network is unreachable") {
			t.Errorf("without a role: %s", got)
		}
		if got := run("--device=taskrole/role=reader"); !strings.Contains(got, "error executing hook") || strings.Contains(got, "ASIA") {
			t.Errorf("with a role: %s", got)
		}
		if err := w.idle(t); err != nil {
			t.Error(err)
		}
	})
}
