//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/iam"
)

// notRun begins the line above a block of commands that the tests do not run; the rest of it says why.
const notRun = "*Not run"

// block is a block of commands of a page.
type block struct {
	commands string
	run      bool
}

// blocks returns the ```sh blocks of a page.
func blocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../doc/getting-started", page))
	if err != nil {
		t.Fatal(err)
	}
	var found []block
	rest := string(text)
	for {
		prose, after, ok := strings.Cut(rest, "```sh\n")
		if !ok {
			return found
		}
		before := prose[strings.LastIndex("\n"+strings.TrimSpace(prose), "\n\n")+1:]
		commands, after, ok := strings.Cut(after, "```")
		if !ok {
			t.Fatalf("%s: a block of commands has no end", page)
		}
		found = append(found, block{commands, !strings.HasPrefix(strings.TrimSpace(before), notRun)})
		rest = after
	}
}

// prelude is what a reader has that the bare host has not: sudo, and an endpoint of AWS that the agent finds by itself.
// adapt leads a configuration that a page has written
// to the simulated account; begin is what systemctl would do.
const prelude = `set -euo pipefail
mkdir -p /root/taskrole && cd /root/taskrole && ln -sfn "$BIN" bin
mkdir -p /var/run && ln -sfn "${DOCKER_HOST#unix://}" /var/run/docker.sock
sudo() { while [[ ${1-} == -* ]]; do shift; done; "$@" || return; adapt; }
adapt() {
	local c=/etc/taskrole/config.yaml
	if [ -e $c ] && ! grep -q ^sts: $c; then
		printf 'sts: {endpoint: "%s"}\n' "$SERVICES" >>$c
		sed -i "s|{services: \[s3, sts\]}|{endpoints: [\"$SERVICES\"]}|" $c
	fi
}
begin() {
	taskrole agent >/var/log/taskrole.log 2>&1 &
	echo $! >/run/agent.pid
	for _ in $(seq 200); do taskrole ps >/dev/null 2>&1 && return; read -rt 0.05 <> <(:) || :; done
	cat /var/log/taskrole.log; false
}
export HOME=/root
mkdir -p /root/.aws
`

// reset makes the host a bare one again, whatever a page has left.
const reset = `
if [ -e /run/agent.pid ]; then
	p=$(cat /run/agent.pid); kill "$p" || :
	while kill -0 "$p" 2>/dev/null; do read -rt 0.05 <> <(:) || :; done
	rm /run/agent.pid
fi
taskrole setup --remove --yes >/dev/null 2>&1 || :
rm -rf /etc/taskrole /root/.aws
`

// TestGettingStarted types what the pages tell a new user to type, on a bare host with Docker 28.5.
func TestGettingStarted(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		page  string
		shows []string // somewhere in what the commands print
		after string   // must hold at the end
	}{
		{
			"ec2.md",
			[]string{":assumed-role/" + cloud.TaskReader + "/s3-reader-", cloud.Reports, "refused, with the reason", "[role-not-allowed]"},
			`for f in /usr/local/bin/taskrole /etc/systemd/system/taskrole.service /etc/docker/daemon.json /etc/cdi/taskrole.json; do [ ! -e $f ]; done`,
		},
		{
			"laptop.md",
			[]string{cloud.Reports, "http://127.0.0.1:"},
			`for _ in $(seq 100); do [ -e /run/taskrole/agent.sock ] || break; read -rt 0.05 <> <(:) || :; done
[ ! -e /run/taskrole/agent.sock ] && [ ! -e /etc/cdi/taskrole.json ]`,
		},
		{"on-premises.md", []string{cloud.Reports}, "true"},
		{"from-keys.md", []string{cloud.Reports, "…MPLE", "until 20"}, "true"},
		{"to-ecs.md", []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/s3-reader"}, "true"},
		{"compose.md", nil, "true"}, // its project is run by the test of examples/compose
	} {
		t.Run(strings.TrimSuffix(c.page, ".md"), func(t *testing.T) {
			script, ran, skipped := pageScript(t, c.page)
			t.Logf("%s: %d blocks run, %d not run", c.page, ran, skipped)
			if r := h.shell(t, reset); r.Exit != 0 {
				t.Fatalf("%s", r.Stderr)
			}
			r := h.shell(t, script+"\n"+c.after+"\n")
			if r.Exit != 0 {
				t.Fatalf("exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
			}
			for _, want := range c.shows {
				if !strings.Contains(string(r.Stdout)+string(r.Stderr), want) {
					t.Errorf("the commands do not show %q:\n%s%s", want, r.Stdout, r.Stderr)
				}
			}
		})
	}
}

// pageScript is all of a page's commands as one script, with what the tests put in between.
func pageScript(t *testing.T, page string) (script string, ran, skipped int) {
	t.Helper()
	var b strings.Builder
	b.WriteString(prelude)
	for _, block := range blocks(t, page) {
		if block.run {
			ran++
			b.WriteString(block.commands)
			continue
		}
		skipped++
		if strings.Contains(block.commands, "systemctl") && !strings.Contains(block.commands, "#!") && page != "laptop.md" {
			b.WriteString("begin\n")
		}
	}
	return b.String(), ran, skipped
}

// host is a bare host: an instance with Docker, and nothing of taskrole but its programs.
type host struct {
	cloud    *cloud.Cloud
	instance *ec2.Instance
	docker   *ec2.Docker
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{}
	var err error
	if h.cloud, err = cloud.New(cloud.Options{HopLimit: 1}); err != nil {
		t.Fatal(err)
	}
	if h.instance, err = ec2.Launch(t.Context(), ec2.Options{Cloud: h.cloud}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.instance.Close(); err != nil {
			t.Error(err)
		}
	})
	h.docker, err = ec2.NewDocker(t.Context(), h.instance, ec2.DockerOptions{Root: tree("forky"), Share: []string{filepath.Dir(bin("taskrole"))}})
	if err != nil {
		t.Fatal(err)
	}
	h.images(t)
	return h
}

// images gives the engine amazon/aws-cli, which is Debian's aws with the address of the simulated account, and a busybox.
func (h *host) images(t *testing.T) {
	t.Helper()
	wrapper := filepath.Join(t.TempDir(), "aws")
	text := fmt.Sprintf("#!/bin/sh\nexec /usr/bin/aws --endpoint-url %s --region us-east-1 \"$@\"\n", h.instance.ServicesURL())
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	importTree(t, h.docker, "amazon/aws-cli", tree("client"), map[string]string{"usr/local/bin/aws": wrapper}, `ENTRYPOINT ["/usr/local/bin/aws"]`)
	if err := h.docker.ImportFiles(t.Context(), "busybox", map[string]string{"/bin/true": bin("taskrole-lab-probe")}); err != nil {
		t.Fatal(err)
	}
}

// shell runs a script on the host. The user's profile "dev", and what stands in for aws_signing_helper, print credentials
// of the account.
func (h *host) shell(t *testing.T, script string) ec2.Result {
	t.Helper()
	s := h.cloud.Account().NewSession(h.cloud.Account().Role(cloud.RoleARN(cloud.InstanceRole)), iam.SessionOptions{Name: "person", Life: time.Hour})
	keys, err := json.Marshal(map[string]any{
		"Version": 1, "AccessKeyId": s.AccessKeyID, "SecretAccessKey": s.Secret.Reveal(), "SessionToken": s.Token.Reveal(),
		"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	})
	if err != nil {
		t.Fatal(err)
	}
	const identity = `
printf '%s' "$KEYS" >/root/keys.json
printf '[profile dev]\nregion = us-east-1\ncredential_process = cat /root/keys.json\n' >/root/.aws/config
printf '#!/bin/sh\ncat /root/keys.json\n' >/usr/local/sbin/aws_signing_helper
chmod 755 /usr/local/sbin/aws_signing_helper
[ -z "${ONPREMISES-}" ] || export AWS_CONFIG_FILE=/etc/taskrole/aws-config AWS_EC2_METADATA_DISABLED=true
`
	env := []string{"BIN=" + filepath.Dir(bin("taskrole")), "SERVICES=" + h.instance.ServicesURL(), "KEYS=" + string(keys)}
	if strings.HasSuffix(t.Name(), "/on-premises") {
		env = append(env, "ONPREMISES=1")
	}
	r, err := h.docker.Shell(t.Context(), strings.Replace(script, prelude, prelude+identity, 1), env...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
