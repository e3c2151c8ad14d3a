package facts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/diagnose"
	"taskrole/internal/facts"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/testkit"
)

const (
	hidden = "wJalrXUtnFEMI-not-a-secret-key"
	keyID  = "ASIAEXAMPLE00001234"
)

// process starts a process that waits, in a network namespace with nothing in it and with root as its root, and looks
// at it.
func process(t *testing.T, root string, uid uint32, env ...string) *diagnose.Facts {
	t.Helper()
	p, _ := opened(t, nil, root, uid, env...)
	return p.Look(t.Context())
}

// opened is such a process, in a network namespace if there is one, held open for looking.
func opened(t *testing.T, ns *netns.NS, root string, uid uint32, env ...string) (*facts.Process, *exec.Cmd) {
	t.Helper()
	testkit.Need(t, testkit.Root)
	cmd := exec.Command("/proc/self/exe")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	cmd.Env = append(env, fmt.Sprintf("%s=%d %s", waiting, uid, root), quick)
	start := func() (struct{}, error) { return struct{}{}, cmd.Start() }
	if ns != nil {
		_, err = netns.Do(ns, start)
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		_, err = start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p, err := facts.Open(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, cmd
}

// What makes this program another process of a test: one that waits, or one that looks at a process.
const (
	waiting  = "TASKROLE_TEST_WAIT"
	looking  = "TASKROLE_TEST_LOOK"
	reusing  = "TASKROLE_TEST_REUSE"
	starting = "TASKROLE_TEST_START"
	holding  = "TASKROLE_TEST_HOLD"
	// quick keeps the race detector from waiting a second at the end of each.
	quick = "GORACE=atexit_sleep_ms=0"
)

func TestMain(m *testing.M) {
	if how := os.Getenv(waiting); how != "" {
		if err := wait(how); err != nil {
			panic(err)
		}
		return
	}
	if os.Getenv(reusing) != "" {
		if err := reuse(); err != nil {
			panic(err)
		}
		return
	}
	if who := os.Getenv(looking); who != "" {
		look(who)
		return
	}
	os.Exit(m.Run())
}

// look prints what is seen of a process, or why nothing is.
func look(who string) {
	var pid int
	fmt.Sscan(who, &pid)
	p, err := facts.Open(context.Background(), pid)
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := json.Marshal(p.Look(context.Background()))
	fmt.Println(string(b), err)
}

// start starts a program that waits as well, and ends with us.
func start(program, how string) error {
	cmd := exec.Command(program, "x.js")
	cmd.Env = []string{waiting + "=" + how, quick}
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = stdout.Read(make([]byte, 1))
	return err
}

// wait is what the process does: it takes its root and its user, and waits until the test ends.
func wait(how string) error {
	var uid int
	var root string
	if _, err := fmt.Sscan(how, &uid, &root); err != nil {
		return err
	}
	if how := os.Getenv(holding); how != "" {
		if err := hold(how); err != nil {
			return err
		}
	}
	if child := os.Getenv(starting); child != "" {
		if err := start(child, how); err != nil {
			return err
		}
	}
	if root == "-" { // stays what it is
		os.Stdout.WriteString(".")
		os.Stdin.Read(make([]byte, 1))
		return nil
	}
	err := errors.Join(syscall.Chroot(root), syscall.Chdir("/"), syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid))
	syscall.Chdir("/app") // if there is one
	os.Stdout.WriteString(".")
	os.Stdin.Read(make([]byte, 1))
	return err
}

// tree is a root file system that others than root may look into.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	os.Chmod(filepath.Dir(root), 0o755)
	os.Chmod(root, 0o755)
	for name, text := range files {
		path := filepath.Join(root, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const credentialsFile = "[default]\naws_access_key_id = " + keyID + "\naws_secret_access_key=" + hidden + "\nregion = eu-west-1\n" +
	"[ p ]\n; nothing\n[q]\ncredential_process = echo " + hidden + "\n"

// TestNoSecretLeaves: what is in no field cannot be printed by anybody.
func TestNoSecretLeaves(t *testing.T) {
	f := process(t, tree(t, map[string]string{"home/.aws/credentials": credentialsFile, "token": hidden + "\n"}), 1000,
		"HOME=/home", "AWS_ACCESS_KEY_ID="+keyID, "AWS_SECRET_ACCESS_KEY="+hidden, "AWS_SESSION_TOKEN="+hidden, "AWS_SECURITY_TOKEN=x"+hidden,
		"AWS_CONTAINER_AUTHORIZATION_TOKEN="+hidden, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/token", "AWS_WHATEVER="+hidden,
		"HTTP_PROXY=http://user:"+hidden+"@proxy:3128/?"+hidden, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/0123456789abcdef0123456789abcdef")
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{hidden, keyID, "0123456789abcdef0123456789abcdef"} {
		if dump := string(text) + fmt.Sprintf("%+v", f); strings.Contains(dump, s) {
			t.Errorf("%q is in the facts: %s", s, dump)
		}
	}
	if v := f.Env["AWS_ACCESS_KEY_ID"]; v.Kind != diagnose.Temporary || v.Masked != "ASIA…1234" || v.Text != "" {
		t.Errorf("AWS_ACCESS_KEY_ID is %+v", v)
	}
	if v := f.Env["HTTP_PROXY"].Text; v != "http://proxy:3128/" {
		t.Errorf("HTTP_PROXY is %q", v)
	}
	if !f.TokensDiffer || !f.TokenFile.Newline {
		t.Errorf("tokens differ: %v, newline: %v; want both", f.TokensDiffer, f.TokenFile.Newline)
	}
	want := map[string]diagnose.Profile{
		"default": {Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true, Region: "eu-west-1"}, "p": {}, "q": {Process: true},
	}
	if diff := cmp.Diff(want, f.Credentials.Profiles); diff != "" {
		t.Errorf("%s: %s\n%s", f.Credentials.Path, f.Credentials.State, diff)
	}
	if f.Subject.UID != 1000 || f.Container.Outcome != diagnose.Unreachable || !f.Net.Known || len(f.Net.Devices) > 0 || f.Net.Routed {
		t.Errorf("user %d, endpoint %+v, network %+v", f.Subject.UID, f.Container, f.Net)
	}
}

// TestFilesAreSeenAsTheProcessSeesThem: its root, its links, its user's rights.
func TestFilesAreSeenAsTheProcessSeesThem(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("[stolen]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	root := tree(t, map[string]string{"home/.aws/config": "[profile a]\nregion = eu-west-1\n[default]\n[services x]\n", "inside": "[inside]\n"})
	for link, to := range map[string]string{"up": strings.Repeat("../", 12) + outside, "abs": outside, "in": "/inside", "magic": "/proc/self/root" + outside} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644)
	os.Chmod(filepath.Join(root, "home/.aws/config"), 0o600)
	for _, c := range []struct {
		file  string
		state diagnose.State
	}{{"/up", diagnose.Missing}, {"/abs", diagnose.Missing}, {"/magic", diagnose.Missing}, {"/in", diagnose.Read}, {"/pipe", diagnose.Odd}, {"/home", diagnose.Odd}} {
		f := process(t, root, 0, "HOME=/home", "AWS_SHARED_CREDENTIALS_FILE="+c.file)
		if f.Credentials.State != c.state {
			t.Errorf("%s is %s (%s), want %s", c.file, f.Credentials.State, f.Credentials.Why, c.state)
		}
		if _, ok := f.Credentials.Profiles["stolen"]; ok {
			t.Errorf("%s led out of the root", c.file)
		}
		if f.Config.State != diagnose.Read || len(f.Config.Profiles) != 2 {
			t.Errorf("root's own file is %+v", f.Config)
		}
	}
	if f := process(t, root, 1000, "HOME=/home"); f.Config.State != diagnose.Unreadable {
		t.Errorf("a file of root's with mode 600 is %s for user 1000, want unreadable", f.Config.State)
	}
}

// TestTheRuntimesOwnProcessIsNotTheApplication: between the two there is a moment in which the environment is empty.
func TestTheRuntimesOwnProcessIsNotTheApplication(t *testing.T) {
	for name, want := range map[string]bool{
		"runc init": true, "crun": false, "nginx init": false, "runc-like-name init": false, "other _LIBCONTAINER_INITPIPE=3": true,
	} {
		words := strings.Fields(name)
		cmd := exec.Command("/proc/self/exe", words[1:]...)
		cmd.Args[0] = words[0]
		cmd.Env = []string{waiting + "=-1 -", quick}
		if strings.Contains(name, "=") {
			cmd.Env = append(cmd.Env, words[1])
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stdout.Read(make([]byte, 1))
		p, err := facts.Open(t.Context(), cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Starting(); got != want {
			t.Errorf("%q is the runtime's: %v, want %v", name, got, want)
		}
		p.Close()
		stdin.Close()
		cmd.Wait()
	}
}

// TestWhatMayNotBeReadIsNotGuessed: somebody else's process.
func TestWhatMayNotBeReadIsNotGuessed(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{looking + "=1", quick}
	if os.Geteuid() == 0 { // root may read all: ask as somebody else
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "as root") || !strings.Contains(string(out), string(fault.PermissionDenied)) {
		t.Errorf("process 1, looked at by somebody else: %v %s, want permission-denied", err, out)
	}
}

func TestAProcessThatIsNotThere(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := facts.Open(t.Context(), cmd.Process.Pid); err == nil {
		t.Error("a process that has ended can be looked at")
	}
}

// TestWhoIsAsked: where the process's SDKs ask, if that is the host or its link; nobody else hears of it.
func TestWhoIsAsked(t *testing.T) {
	root := tree(t, map[string]string{"home/x": ""})
	const endpoint, mode, full = "AWS_EC2_METADATA_SERVICE_ENDPOINT=", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=", "AWS_CONTAINER_CREDENTIALS_FULL_URI="
	for _, c := range []struct {
		env       []string
		imds, uri string // "": not asked
	}{
		{nil, "http://169.254.169.254/latest/api/token", ""},
		{[]string{mode + "IPv6"}, "http://[fd00:ec2::254]/latest/api/token", ""},
		{[]string{mode + "IPv6", endpoint + "http://127.0.0.1:1338/"}, "http://127.0.0.1:1338/latest/api/token", ""},
		{[]string{endpoint + "http://user:" + hidden + "@127.0.0.1:1338"}, "http://127.0.0.1:1338/latest/api/token", ""},
		{[]string{endpoint + "http://10.0.0.1"}, "", ""},
		{[]string{endpoint + "http://metadata.example"}, "", ""},
		{[]string{endpoint + "https://127.0.0.1"}, "", ""},
		{[]string{full + "http://[fd00:ec2::23]/v1/credentials"}, "http://169.254.169.254/latest/api/token", "http://[fd00:ec2::23]/v1/credentials"},
		{[]string{full + "http://localhost:61171/c"}, "http://169.254.169.254/latest/api/token", "http://127.0.0.1:61171/c"},
		{[]string{full + "http://10.0.0.1/c"}, "http://169.254.169.254/latest/api/token", ""},
		{[]string{full + "http://[fd00:ec2::254]/c"}, "http://169.254.169.254/latest/api/token", ""},
	} {
		f := process(t, root, 0, append(c.env, "HOME=/home")...)
		if f.IMDS.Token.URL != c.imds || f.Container.URL != c.uri || (f.IMDS.V1.Outcome == diagnose.NotAsked) != (c.imds == "") {
			t.Errorf("%q: asked %q and %q, want %q and %q", c.env, f.IMDS.Token.URL, f.Container.URL, c.imds, c.uri)
		}
		if said := strings.Contains(strings.Join(f.Unseen, "\n"), "leads elsewhere"); said != (c.imds == "") {
			t.Errorf("%q: unseen %q", c.env, f.Unseen)
		}
	}
}
