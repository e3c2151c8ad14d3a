package cli_test

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/cli"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/table"
	"taskrole/internal/testkit"
)

var now = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func in(d time.Duration) time.Time { return now.Add(d) }

// someContainers has one container in each state, and two refusals.
func someContainers() control.ListReply {
	const arn = "arn:aws:iam::123456789012:role/"
	return control.ListReply{
		Containers: []control.Attached{
			{
				ID: "3f2a91c0ffee3f2a91c0ffee", Name: "web-1", Image: "nginx:1.27", Network: "bridge", Role: "reader", RoleARN: arn + "reader",
				Session: "reader-3f2a91c0ffee", Way: container.WayCDI, Since: in(-time.Hour), Fetched: in(-15 * time.Minute), Expires: in(45 * time.Minute),
				Endpoints: []string{"169.254.170.2:80", "169.254.170.23:80", "[fd00:ec2::23]:80", "169.254.169.254:80", "127.0.0.1:61171", "127.0.0.1:61170"},
				Taken:     in(-12 * time.Second), Client: "Boto3/1.34.46 md/Botocore#1.34.46 ua/2.0",
			},
			{
				ID: "b00000000000000000000000", Role: "writer", Session: "writer-b00000000000", Way: container.WayShim, Host: true,
				Fetched: in(-2 * time.Hour), Expires: in(-time.Minute), Endpoints: []string{"169.254.169.254:80"},
				Trouble: &control.Trouble{Code: fault.CredentialsExpired, What: "the credentials expired", Hint: "mend STS"},
			},
			{
				ID: "c00000000000000000000000", Name: "job", Image: "busybox", Network: "none", Role: "reader", Session: "reader-c", Way: container.WayLabel,
				Shared: true, Fetched: in(-time.Minute), Expires: in(59 * time.Minute), Missing: "169.254.170.2 is not on lo any more",
			},
		},
		Refusals: []control.Refusal{
			{
				Time: in(-90 * time.Second), Count: 3, ID: "d00000000000000000000000", Role: "admin", Way: container.WayCDI,
				Trouble: control.Trouble{Code: fault.RoleUnknown, What: "no role is called \"admin\"", Hint: "the roles are reader, writer"},
			},
		},
	}
}

func TestPsForAProgram(t *testing.T) {
	want := "CONTAINER\tROLE\tSTATE\tLEFT\tLAST TAKEN\tCLIENT\tIMAGE\tNETWORK\tWAY\tENDPOINTS\tSESSION\n" +
		"b00000000000\twriter\texpired\t-\tnever\t-\t-\thost\tshim\timds\twriter-b00000000000\n" +
		"job\treader\tbroken\t59m\tnever\t-\tbusybox\tnone, shared\tlabel\t-\treader-c\n" +
		"web-1\treader\tok\t45m\t12s ago\tBoto3/1.34.46 md/Botocore#1.34.46 ua/2.0\tnginx:1.27\tbridge\tcdi\tecs,pod-identity,imds,full-uri,proxy\treader-3f2a91c0ffee\n" +
		"\n" +
		"REFUSED\tROLE\tCODE\tWHEN\tTIMES\tWAY\tWHY\n" +
		"d00000000000\tadmin\trole-unknown\t1m ago\t3\tcdi\tno role is called \"admin\": the roles are reader, writer\n"
	if diff := cmp.Diff(want, cli.PsText(someContainers(), now, table.Options{}, true)); diff != "" {
		t.Errorf("ps (-want +got):\n%s", diff)
	}
}

func TestPsInWindowsOfEachWidth(t *testing.T) {
	for width, want := range map[int]string{
		100: `CONTAINER     ROLE    STATE    LEFT          LAST TAKEN  CLIENT         IMAGE       NETWORK
b00000000000  writer  expired  -             never       -              -           host
job           reader  broken   ######## 59m  never       -              busybox     none, shared
web-1         reader  ok       ######-- 45m  12s ago     Boto3/1.34.46  nginx:1.27  bridge
b00000000000: the credentials expired [credentials-expired]
b00000000000: hint: mend STS
job: broken: 169.254.170.2 is not on lo any more; start it again

REFUSED       ROLE   CODE          WHEN    TIMES  WAY  WHY
d00000000000  admin  role-unknown  1m ago  3      cdi  no role is called "admin"
`,
		50: `CONTAINER     ROLE    STATE    LEFT
b00000000000  writer  expired  -
job           reader  broken   ######## 59m
web-1         reader  ok       ######-- 45m
b00000000000: the credentials expired [credentials-expired]
b00000000000: hint: mend STS
job: broken: 169.254.170.2 is not on lo any more; start it again

REFUSED       ROLE   CODE          WHY
d00000000000  admin  role-unknown  no role is cal…
`,
		24: `CONTAI…  ROLE    STATE
b00000…  writer  expired
job      reader  broken
web-1    reader  ok
b00000000000: the credentials expired [credentials-expired]
b00000000000: hint: mend STS
job: broken: 169.254.170.2 is not on lo any more; start it again

REFUS…  ROLE   CODE    WHY
d0000…  admin  role-…  no ro…
`,
	} {
		got := cli.PsText(someContainers(), now, table.Options{Width: width}, false)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ps in %d columns (-want +got):\n%s", width, diff)
		}
	}
}

func TestPsWithColoursAndBlocks(t *testing.T) {
	got := cli.PsText(someContainers(), now, table.Options{Width: 200, Colour: true}, true)
	for _, want := range []string{"\x1b[32mok\x1b[0m", "\x1b[31mexpired\x1b[0m", "\x1b[32m██████░░ 45m\x1b[0m", "\x1b[31mrole-unknown\x1b[0m"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestPsKeepsStrangersWordsInTheirPlace(t *testing.T) {
	list := someContainers()
	list.Containers[0].Name = "a\x1b[2J\tb\nc"
	list.Containers[0].Client = "\x1b]0;title\x07"
	list.Containers[0].Missing = "x\x1b[31m\ny"
	list.Refusals[0].What = "\u009b2J\x9b"
	for _, o := range []table.Options{{}, {Width: 300}} {
		got := cli.PsText(list, now, o, true)
		if strings.ContainsAny(got, "\x1b\x07\u009b") || !utf8.ValidString(got) {
			t.Errorf("control characters reach the terminal: %q", got)
		}
	}
}

func TestPsWithoutContainers(t *testing.T) {
	if got := cli.PsText(control.ListReply{}, now, table.Options{Width: 80}, true); got != "no container has a role\n" {
		t.Errorf("on a terminal: %q", got)
	}
	if got := cli.PsText(control.ListReply{}, now, table.Options{}, true); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "CONTAINER\tROLE\t") {
		t.Errorf("in a pipe: %q", got)
	}
	if r := run(t, nil, "ps", "--json", "--config", fakeAgent{}.start(t)); r.stdout != "{\n  \"containers\": [],\n  \"refusals\": []\n}\n" {
		t.Errorf("as JSON: %q", r.stdout)
	}
}

func TestPsAsksTheAgent(t *testing.T) {
	config := fakeAgent{list: someContainers()}.start(t)
	r := run(t, nil, "ps", "--config", config)
	if r.code != 0 || !strings.Contains(r.stdout, "\nweb-1\treader\t") || r.stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
	r = run(t, nil, "ps", "--json", "--config", config)
	var got control.ListReply
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || cmp.Diff(someContainers(), got) != "" {
		t.Errorf("--json: %v %s", err, cmp.Diff(someContainers(), got))
	}
	config, _ = writeConfig(t)
	for _, args := range [][]string{{"ps"}, {"ps", "--watch"}} {
		if r := run(t, nil, append(args, "--config", config)...); r.code != fault.ExitFault || !strings.Contains(r.stderr, "[agent-unreachable]\ntaskrole: hint: ") {
			t.Errorf("%v without an agent: exit %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
}

// until waits for w to have been written something, and interrupts the process then.
type until struct {
	text strings.Builder
	done bool
}

func (u *until) Write(b []byte) (int, error) {
	if !u.done {
		u.done = true
		syscall.Kill(os.Getpid(), syscall.SIGINT)
	}
	return u.text.Write(b)
}

func TestWatchEndsWithCtrlC(t *testing.T) {
	var stdout until
	var stderr strings.Builder
	code := cli.Run(t.Context(), cli.Options{
		Args: []string{"ps", "--watch", "--config", fakeAgent{list: someContainers()}.start(t)}, Stdout: &stdout, Stderr: &stderr, Describe: describe,
	})
	if code != 0 || !strings.HasPrefix(stdout.text.String(), "CONTAINER\t") || stderr.String() != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout.text.String(), stderr.String())
	}
}

func TestPsOnATerminalHasItsWidth(t *testing.T) {
	t.Setenv("COLUMNS", "30")
	stdout := testkit.Terminal(t)
	var stderr strings.Builder
	code := cli.Run(t.Context(), cli.Options{
		Args: []string{"ps", "--config", fakeAgent{}.start(t)}, Stdout: stdout, Stderr: &stderr, Describe: describe,
	})
	if code != 0 || stderr.String() != "" {
		t.Errorf("exit %d, stderr %q", code, stderr.String())
	}
}

func TestAWindowThatIsTooLowDoesNotRoll(t *testing.T) {
	for most, want := range map[int]string{-1: "a\nb\nc\n", 1: "a\nb\nc\n", 2: "a\n… and 2 lines more\n", 3: "a\nb\nc\n", 9: "a\nb\nc\n"} {
		if got := cli.Head("a\nb\nc\n", most); got != want {
			t.Errorf("head of %d lines = %q, want %q", most, got, want)
		}
	}
}
