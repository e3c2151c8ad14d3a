//go:build systemd

package systemd

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/lab/cloud"
	"taskrole/lab/iam"
)

const roles = `account: "123456789012"
region: us-east-1
guard: enforce
sts: {endpoint: %q}
roles:
  reader:
    arn: arn:aws:iam::123456789012:role/task-s3-reader
    region: us-east-1
    allow: [{any: true}]
`

// serve is a simulated AWS at an address that the copy reaches too, and the host's identity there.
func serve(t *testing.T, m *machine) (endpoint string) {
	t.Helper()
	c, err := cloud.New(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: c.Services(), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	host := c.Account().NewSession(c.Account().Role(cloud.RoleARN(cloud.InstanceRole)), iam.SessionOptions{Name: cloud.InstanceID, Life: time.Hour})
	m.write("/etc/systemd/system/taskrole.service.d/test.conf", fmt.Sprintf("[Service]\nWatchdogSec=2s\n"+
		"Environment=AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_SESSION_TOKEN=%s AWS_EC2_METADATA_DISABLED=true\n",
		host.AccessKeyID, host.Secret.Reveal(), host.Token.Reveal()))
	return "http://" + l.Addr().String()
}

const credentials = "http://169.254.170.2/v2/credentials/reader"

// hasRole runs a container that asks for its credentials.
func (m *machine) hasRole(args ...string) {
	m.t.Helper()
	words := append([]string{"docker", "run", "--rm", "--runtime", "taskrole", "-e", "TASKROLE=reader"}, args...)
	if out, err := m.try(append(words, "probe", "get", credentials)...); err != nil || !strings.Contains(out, "role/task-s3-reader") {
		log, _ := m.try("journalctl", "-u", "taskrole", "-n", "20", "-o", "cat", "--no-pager")
		m.t.Errorf("%q: %v\n%s\nthe agent:\n%s", args, err, out, log)
	}
}

// finds asks again from inside a container that runs.
func (m *machine) finds(id string) error {
	out, err := m.try("docker", "exec", id, "/taskrole-lab-probe", "get", credentials)
	if err == nil && !strings.Contains(out, "role/task-s3-reader") {
		err = errors.New("another answer")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (m *machine) agentPID() string {
	return m.do("systemctl", "show", "-p", "MainPID", "--value", "taskrole")
}

// tree is what setup may touch. Directories have another size when overlayfs has copied them.
func (m *machine) tree() []string {
	list := strings.Split(m.do("find", "/etc", "/usr/local", "/var/lib/taskrole", "/run/taskrole", "-xdev", "-type", "d", "-printf", "%p %m %U:%G\\n",
		"-o", "-printf", "%p %m %U:%G %s %l\\n"), "\n")
	slices.Sort(list)
	return list
}

// answersPeople asks what the agent looks up about who asks, and what is in containers: with no more than the unit leaves it.
func (m *machine) answersPeople() {
	m.t.Helper()
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"env", "reader", "--format", "docker"}, "\nAWS_SESSION_TOKEN="},
		{[]string{"roles", "--check"}, "ok      reader"},
		{[]string{"ps"}, "\treader\tok\t"},
	} {
		if out := m.do(append([]string{"/usr/local/bin/taskrole"}, c.words...)...); !strings.Contains(out, c.want) {
			m.t.Errorf("taskrole %s: %s", strings.Join(c.words, " "), out)
		}
	}
}

// A life of the service: installed, in use on every network, killed, hung, reloaded, and removed without a trace.
func TestServiceFromSetupToRemove(t *testing.T) {
	m := boot(t)
	m.do("systemctl", "start", "docker")
	m.do("bash", "-c", `tar -C /run/bin -c taskrole-lab-probe | docker import -c 'ENTRYPOINT ["/taskrole-lab-probe"]' - probe`)
	endpoint := serve(t, m)
	m.write("/etc/taskrole/config.yaml", fmt.Sprintf(roles, endpoint))
	m.do("mkdir", "-p", "/var/lib/taskrole", "/run/taskrole") // so that find looks there, before and after
	before := m.tree()
	m.do("rmdir", "/var/lib/taskrole", "/run/taskrole")

	m.do("/run/bin/taskrole", "setup", "--yes", "--restart-docker")
	for _, network := range [][]string{{"--network=none"}, {}, {"--network=host"}, {"--user=1000", "--cap-drop=ALL"}, {"--network=host", "--user=1000"}} {
		m.hasRole(network...)
	}
	kept := m.do("docker", "run", "-d", "--runtime", "taskrole", "-e", "TASKROLE=reader", "--user=1000", "probe", "sleep", "10m")
	late := m.do("docker", "run", "-d", "--label", "taskrole=reader", "probe", "sleep", "10m")
	m.hasRole("--network=container:"+kept, "--cap-drop=ALL")
	m.eventually("the role by label", func() error { return m.finds(late) })

	m.answersPeople()

	first := m.agentPID()
	m.do("systemctl", "reload", "taskrole")
	m.do("kill", "-STOP", first) // the watchdog's business
	m.eventually("an agent that hangs is replaced", func() error {
		if pid := m.agentPID(); pid == first || pid == "0" {
			return errors.New("it is " + pid)
		}
		return m.finds(kept)
	})
	m.do("kill", "-KILL", m.agentPID())
	m.eventually("an agent that was killed is replaced", func() error { return errors.Join(m.finds(kept), m.finds(late)) })

	m.do("docker", "rm", "-f", late)
	m.do("docker", "stop", "-t", "0", kept)
	if out := m.do("/usr/local/bin/taskrole", "setup", "--remove", "--yes", "--restart-docker"); !strings.Contains(out, "stays as another name of runc") {
		t.Errorf("nobody is told that the runtime's name stays:\n%s", out)
	}
	m.do("docker", "start", kept)
	m.do("docker", "rm", "-f", kept)
	m.do("/run/bin/taskrole", "setup", "--remove", "--yes")
	if out := m.do("/run/bin/taskrole", "guard", "remove"); !strings.Contains(out, "there is no table") {
		t.Errorf("the guard's table was still there: %s", out)
	}
	if out, err := m.try("systemctl", "is-active", "taskrole"); err == nil {
		t.Errorf("the service is %s", out)
	}
	m.do("mkdir", "-p", "/var/lib/taskrole", "/run/taskrole")
	if d := cmp.Diff(before, m.tree()); d != "" {
		t.Errorf("setup and --remove changed (-before +after):\n%s", d)
	}
}
