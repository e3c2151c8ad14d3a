package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/arn"
	"taskrole/internal/config"
	"taskrole/internal/fault"
	"taskrole/internal/instance"
	"taskrole/internal/policy"
)

func role(t *testing.T, s string) arn.Role {
	t.Helper()
	r, err := arn.ParseRole(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("c.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

var prefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestTheExampleIsRead(t *testing.T) {
	path := filepath.Join("..", "..", "examples", "config.yaml")
	got, err := config.Load(path)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	want := &config.Config{
		Path: path, Account: "123456789012", Region: "eu-central-1",
		Socket: config.DefaultSocket, Runtime: "/usr/local/bin/taskrole-runtime", Docker: config.DefaultDocker, NoPodman: true, Late: true,
		CDI: config.CDI{Dir: "/etc/cdi"},
		STS: config.STS{Endpoint: "https://sts.eu-central-1.amazonaws.com", CallsPerSecond: 20},
		Metadata: instance.Facts{
			ID: "i-0123456789abcdef0", Type: "t3.micro", ImageID: "ami-0123456789abcdef0", Region: "eu-central-1", Zone: "eu-central-1a", ZoneID: "euc1-az2",
			LocalIPv4: "10.0.0.9", Hostname: "build-7.example.com", MAC: "0e:00:00:00:00:01", Tags: map[string]string{"Name": "build-7"},
		},
		AskHost: true,
		Guard: config.Guard{
			Mode: config.GuardAudit, Names: []string{"cloudwatch-agent"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.8.7.0/24")},
		},
		Roles: []config.Role{
			{
				Name: "metrics", ARN: role(t, "arn:aws:iam::123456789012:role/put-metrics"), Session: "{role}-{id}",
				Duration: time.Hour, IMDS: config.IMDSv2Only, Inject: config.InjectRelative, Allow: []policy.Rule{{Any: true}},
			},
			{
				Name: "reports-writer", ARN: role(t, "arn:aws:iam::210987654321:role/teams/reports/writer"),
				Session: "{name}-{id}", Duration: time.Hour, Region: "eu-west-1", ExternalID: "example-7f3a",
				Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:PutObject"],"Resource":"arn:aws:s3:::reports/*"}]}`,
				Tags:   map[string]string{"team": "reports", "cost-centre": "4711"}, IMDS: config.IMDSv1AndV2, Inject: config.InjectFull, TaskMetadata: true, ShareNetwork: true, AWSLogs: true,
				Egress: &config.Egress{Services: []string{"s3", "sts"}, Endpoints: []string{"https://minio.example.com:9000"}},
				Allow: []policy.Rule{
					{
						Name: "report-*", Image: "registry.example.com/reports:2.*",
						Labels: map[string]string{"com.example.team": "reports", "com.example.stage": "prod-?"},
					},
					{Image: "registry.example.com/reports-migration"},
				},
			},
			{
				Name: "s3-reader", ARN: role(t, "arn:aws:iam::123456789012:role/s3-reader"), Session: "{role}-{id}",
				Duration: time.Hour, IMDS: config.IMDSv2Only, Inject: config.InjectRelative, Allow: []policy.Rule{{Image: "amazon/aws-cli"}},
			},
		},
	}
	if d := cmp.Diff(want, got, prefixes); d != "" {
		t.Errorf("Load (-want +got):\n%s", d)
	}
}

func TestDefaults(t *testing.T) {
	got := parse(t, "account: 012345678901\nroles: {a: {allow: [any: true]}}\n")
	want := &config.Config{
		Path: "c.yaml", Account: "012345678901", Socket: "/run/taskrole/agent.sock", Docker: "unix:///var/run/docker.sock", Late: true,
		CDI: config.CDI{Dir: "/etc/cdi"}, STS: config.STS{CallsPerSecond: 20}, AskHost: true, Guard: config.Guard{Mode: config.GuardOff},
		Roles: []config.Role{{
			Name: "a", ARN: role(t, "arn:aws:iam::012345678901:role/a"), Session: "{role}-{id}", Duration: time.Hour,
			IMDS: config.IMDSv2Only, Inject: config.InjectRelative, Allow: []policy.Rule{{Any: true}},
		}},
	}
	if d := cmp.Diff(want, got, prefixes); d != "" {
		t.Errorf("Parse (-want +got):\n%s", d)
	}
}

func TestAccountKeepsItsDigits(t *testing.T) {
	for _, id := range []string{"123456789012", "012345678901", "001234567012", "000000000007", "999999999999"} {
		for _, written := range []string{id, `"` + id + `"`, "'" + id + "'"} {
			c := parse(t, "roles: {a: {allow: [any: true]}}\naccount: "+written+"\n")
			if string(c.Account) != id || string(c.Roles[0].ARN.Account) != id {
				t.Errorf("account: %s is read as %s, role %s", written, c.Account, c.Roles[0].ARN)
			}
		}
	}
}

func TestOwnRoleIsInThePartitionOfTheRegion(t *testing.T) {
	for region, want := range map[string]string{
		"eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "us-iso-east-1": "aws-iso", "us-east-1": "aws",
	} {
		c := parse(t, "account: 123456789012\nregion: "+region+"\nroles: {a: {allow: [any: true]}}\n")
		if got := c.Roles[0].ARN.Partition; got != want {
			t.Errorf("partition in %s = %s, want %s", region, got, want)
		}
	}
}

func TestRegionOf(t *testing.T) {
	c := parse(t, "account: 123456789012\nregion: eu-west-1\nroles: {a: {allow: [any: true]}, b: {region: us-east-1, allow: [any: true]}}\n")
	if a, b := c.RegionOf(c.Roles[0]), c.RegionOf(c.Roles[1]); a != "eu-west-1" || b != "us-east-1" || c.Roles[0].Region != "" {
		t.Errorf("regions = %q, %q, own region of a = %q", a, b, c.Roles[0].Region)
	}
}

func TestGuard(t *testing.T) {
	const roles = "account: 123456789012\nroles: {a: {allow: [any: true]}}\n"
	for text, want := range map[string]config.Guard{
		"guard: off":             {Mode: config.GuardOff},
		"guard: audit":           {Mode: config.GuardAudit},
		"guard: enforce":         {Mode: config.GuardEnforce},
		"guard: {mode: audit}":   {Mode: config.GuardAudit},
		"guard: {mode: \"off\"}": {Mode: config.GuardOff},
		"guard: {except: [{name: cw*}, {network: 10.1.0.0/16}, {network: 'fd00:1::/64'}], mode: enforce}": {
			Mode: config.GuardEnforce, Names: []string{"cw*"},
			Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")},
		},
	} {
		got := parse(t, roles+text+"\n").Guard
		if d := cmp.Diff(want, got, prefixes); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}

func TestNoEngine(t *testing.T) {
	c := parse(t, "account: 123456789012\nengines: {docker: none}\nroles: {a: {allow: [any: true]}}\n")
	if c.Docker != "" || c.HasEngine() {
		t.Errorf("Docker = %q, Podman = %q, want none", c.Docker, c.Podman)
	}
	const rules = "roles: {a: {task_metadata: true, allow: [name: x]}}\n"
	if c = parse(t, "account: 123456789012\nengines: {docker: none, podman: 'unix:///run/podman/podman.sock'}\n"+rules); c.Podman != "unix:///run/podman/podman.sock" {
		t.Errorf("Podman = %q", c.Podman)
	}
}

func TestRole(t *testing.T) {
	c := parse(t, `{account: 123456789012, roles: {s3-reader: {allow: [any: true]}, s3-writer: {allow: [any: true]}, metrics: {allow: [any: true]}}}`)
	if r, err := c.Role("metrics"); err != nil || r.Name != "metrics" {
		t.Errorf("Role = %v, %v", r, err)
	}
	for name, hint := range map[string]string{
		"s3-raeder":               "did you mean s3-reader?",
		"S3-Reader":               "did you mean s3-reader?",
		"s3-riter":                "did you mean s3-writer or s3-reader?",
		"database":                "the roles are metrics, s3-reader, s3-writer",
		"":                        "the roles are metrics, s3-reader, s3-writer",
		strings.Repeat("x", 1e6):  "the roles are metrics, s3-reader, s3-writer",
		"metrics\x00\n[internal]": "the roles are metrics, s3-reader, s3-writer",
	} {
		_, err := c.Role(name)
		if f := fault.As(err); f == nil || f.Code != fault.RoleUnknown || f.Hint != hint || len(f.What) > 200 || strings.Contains(f.What, "\n") {
			t.Errorf("Role(%.20q) = %.300v, want role-unknown: %s", name, err, hint)
		}
	}
}

func TestLoadOfWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(dir, "absent")
	for path, want := range map[string]string{
		absent: absent + ": there is no such file; allowed: a file as examples/config.yaml shows it, or another path with --config",
		dir:    dir + ": this is not a regular file",
		fifo:   fifo + ": this is not a regular file",
		big:    big + ":1:1: the file is too large; allowed: at most 1048576 bytes",
	} {
		_, err := config.Load(path)
		if ps, ok := errors.AsType[config.Problems](err); !ok || len(ps) != 1 || err.Error() != want {
			t.Errorf("Load(%s) = %v, want %s", filepath.Base(path), err, want)
		}
	}
}

// The manual has a heading for every key, and the example uses it.
func TestEveryKeyIsInTheManual(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "doc", "config.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"account", "region", "socket", "runtime", "cdi.dir", "engines.docker", "engines.podman", "late", "sts.endpoint", "sts.calls_per_second",
		"roles.NAME", "arn", "session", "duration", "external_id", "policy", "tags", "imds", "egress.services",
		"egress.endpoints", "guard", "guard.mode", "guard.except", "network", "allow", "any", "name", "image", "labels",
	} {
		if !strings.Contains(string(manual), "`"+key+"`") {
			t.Errorf("doc/config.md says nothing of `%s`", key)
		}
	}
	_, err = config.Parse("c", []byte("x: 1\nroles: {a: {x: 1, allow: [{x: 1}], egress: {x: 1}}}\ncdi: {x: 1}\nengines: {x: 1}\nsts: {x: 1}\nguard: {x: 1, except: [{x: 1}]}\n"))
	ps, _ := errors.AsType[config.Problems](err)
	if len(ps) < 6 {
		t.Fatalf("only %d problems: %v", len(ps), err)
	}
	for _, p := range ps {
		if !strings.Contains(p.What, `no key "x"`) {
			continue
		}
		for key := range strings.SplitSeq(p.Allowed, ", ") {
			if !strings.Contains(string(manual), key) {
				t.Errorf("doc/config.md does not name %s", key)
			}
		}
	}
}
