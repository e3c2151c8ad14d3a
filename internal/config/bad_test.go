package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each testdata/bad/NAME.yaml has every problem that NAME.txt lists.
func TestProblemsAreAllReportedAtOnce(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse("c.yaml", data)
			if _, ok := errors.AsType[config.Problems](err); !ok || c != nil {
				t.Fatalf("Parse = %v, %v, want Problems", c, err)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if d := cmp.Diff(string(want), err.Error()+"\n"); d != "" {
				t.Errorf("problems (-golden +got):\n%s", d)
			}
		})
	}
}

// good is a configuration into which the test below puts one bad value at a time.
const good = `account: 123456789012
region: eu-central-1
roles:
  a:
    allow: [any: true]
`

func TestOneBadValueIsOneProblemAtItsPlace(t *testing.T) {
	for add, want := range map[string]string{
		"socket: agent.sock\n":                             `6:9: socket: "agent.sock" is not an absolute path`,
		"socket: /run/../agent.sock\n":                     `6:9: socket: "/run/../agent.sock" is not an absolute path`,
		"runtime: 7\n":                                     `6:10: runtime: "7" is a number to YAML: put it in quotes`,
		"runtime:\n":                                       `6:1: runtime: nothing is given`,
		"cdi: [dir]\n":                                     `6:6: cdi: this is a list; allowed: a mapping of dir`,
		"cdi: {dir: {}}\n":                                 `6:12: cdi.dir: this is a mapping`,
		"engines: {podman: x}\n":                           `6:19: engines.podman: "x" is not the address of a unix socket`,
		"engines: {runc: x}\n":                             `6:11: engines.runc: there is no key "runc"; allowed: docker, podman`,
		"engines: {docker: tcp://h:1}\n":                   `6:19: engines.docker: "tcp://h:1" is not the address of a unix socket`,
		"  b: {awslogs: 1, allow: [any: true]}\n":          `6:16: roles.b.awslogs: this is a number; allowed: true or false`,
		"  b: {share_network: 1, allow: [any: true]}\n":    `6:22: roles.b.share_network: this is a number; allowed: true or false`,
		"late: 'on'\n":                                     `6:7: late: this is text; allowed: true or false`,
		"  b: {task_metadata: 'on', allow: [any: true]}\n": `6:22: roles.b.task_metadata: this is text; allowed: true or false`,
		"metadata: {host: no}\n":                           `6:18: metadata.host: this is text; allowed: true or false`,
		"metadata: {zone: eu-central-1}\n":                 `6:18: metadata.zone: "eu-central-1" is none; allowed: the name of an availability zone`,
		"metadata: {zone_id: 1a}\n":                        `6:21: metadata.zone_id: "1a" is none`,
		"metadata: {instance_id: a/b}\n":                   `6:25: metadata.instance_id: "a/b" is none`,
		"metadata: {local_ipv4: 169.254.1.1}\n":            `6:24: metadata.local_ipv4: "169.254.1.1" is none; allowed: an IPv4 address, not a link-local one`,
		"metadata: {hostname: 'a b'}\n":                    `6:22: metadata.hostname: "a b" is none`,
		"metadata: {mac: 0E:00:00:00:00:01}\n":             `6:17: metadata.mac: "0E:00:00:00:00:01" is none`,
		"metadata: {tags: {a/b: x}}\n":                     `6:19: metadata.tags."a/b": "a/b" cannot be the key of a tag`,
		"metadata: {tags: {..: x}}\n":                      `6:19: metadata.tags."..": ".." cannot be the key of a tag`,
		"metadata: {tags: {a: 1}}\n":                       `6:22: metadata.tags.a: "1" is a number to YAML`,
		"metadata: {user_data: x}\n":                       `6:12: metadata.user_data: there is no key "user_data"`,
		"sts: {calls_per_second: fast}\n":                  `6:25: sts.calls_per_second: "fast" is text to YAML`,
		"sts: {calls_per_second: 0}\n":                     `6:25: sts.calls_per_second: "0" is not such a number`,
		"sts: {calls_per_second: .nan}\n":                  `6:25: sts.calls_per_second: ".nan" is not such a number`,
		"sts: {endpoint: 169.254.169.254}\n":               `6:17: sts.endpoint: "169.254.169.254" is not an endpoint`,
		"accuont: 1\n":                                     `6:1: accuont: there is no key "accuont", did you mean account?; allowed: account, region`,
		"region: us-east-1\n":                              `6:1: region: the key is given twice, first in line 2`,
		"7: x\n":                                           `6:1: a key is a number and not text`,
		"? [a]\n: x\n":                                     `6:3: a key is a list and not text`,
		"<<: {a: 1}\n":                                     `6:1: a key is a merge key and not text`,
		"x: &y 1\n":                                        `6:1: x: there is no key "x"`,
		"    arn: arn:aws:s3:::b\n":                        `6:10: roles.a.arn: "arn:aws:s3:::b" is not an IAM role`,
		"    arn: 123456789012\n":                          `6:10: roles.a.arn: "123456789012" is a number to YAML`,
		"    session: '{pod}'\n":                           `6:14: roles.a.session: there is no placeholder "{pod}"`,
		"    session: 'a b'\n":                             `6:14: roles.a.session: "a b" has characters that STS refuses`,
		"    session: '{id'\n":                             `6:14: roles.a.session: there is no placeholder "{"`,
		"    session: a\n":                                 `6:14: roles.a.session: "a" makes names of 1 characters`,
		"    session: '{id}{id}{id}'\n":                    `6:14: roles.a.session: "{id}{id}{id}" makes names of 72 characters`,
		"    session: ''\n":                                `6:14: roles.a.session: "" makes names of 0 characters`,
		"    duration: 3600\n":                             `6:15: roles.a.duration: "3600" is a number to YAML`,
		"    duration: 1 hour\n":                           `6:15: roles.a.duration: "1 hour" is not a duration`,
		"    duration: 14m59s\n":                           `6:15: roles.a.duration: "14m59s" is not a duration`,
		"    duration: 13h\n":                              `6:15: roles.a.duration: "13h" is not a duration`,
		"    region: Frankfurt\n":                          `6:13: roles.a.region: "Frankfurt" is not a region`,
		"    external_id: 12345\n":                         `6:18: roles.a.external_id: "12345" is a number to YAML: put it in quotes`,
		"    external_id: a b\n":                           `6:18: roles.a.external_id: "a b" is not an external id`,
		"    policy: '[]'\n":                               `6:13: roles.a.policy: the policy is no object`,
		"    policy: '{'\n":                                `6:13: roles.a.policy: the policy is not JSON`,
		"    policy: {Version: x}\n":                       `6:13: roles.a.policy: this is a mapping; allowed: a JSON object`,
		"    tags: {a: 1}\n":                               `6:15: roles.a.tags.a: "1" is a number to YAML: put it in quotes`,
		"    tags: {aws:x: y}\n":                           `6:12: roles.a.tags."aws:x": "aws:x" cannot be the key of a tag`,
		"    tags: {a: x, A: y}\n":                         `6:18: roles.a.tags.A: to STS this is the same key as "a"`,
		"    tags: {a: '<'}\n":                             `6:15: roles.a.tags.a: "<" cannot be the value of a tag`,
		"    imds: v1\n":                                   `6:11: roles.a.imds: "v1" is no such mode; allowed: v2-only, v1-and-v2, off`,
		"    imds: false\n":                                `6:11: roles.a.imds: "false" is true or false to YAML`,
		"    egress: {}\n":                                 `6:13: roles.a.egress: nothing may be reached`,
		"    egress: {services: []}\n":                     `6:24: roles.a.egress.services: the list is empty`,
		"    egress: {services: s3}\n":                     `6:24: roles.a.egress.services: this is text`,
		"    egress: {services: [s3.a]}\n":                 `6:25: roles.a.egress.services[0]: "s3.a" is not the name of a service`,
		"    egress: {services: [s3, s3]}\n":               `6:29: roles.a.egress.services[1]: "s3" is given twice`,
		"    egress: {endpoints: [h:1]}\n":                 `6:26: roles.a.egress.endpoints[0]: "h:1" is not an endpoint`,
		"  b:\n":                                           `6:3: roles.b: nothing is given`,
		"  b: {}\n":                                        `6:3: roles.b: the role has no allow, so no container could hold it; allowed: allow, with`,
		"  b: x\n":                                         `6:6: roles.b: this is text`,
		"  b: {allow: []}\n":                               `6:14: roles.b.allow: the list is empty`,
		"  b: {allow: {any: true}}\n":                      `6:14: roles.b.allow: this is a mapping; allowed: a list of rules`,
		"  b: {allow: [any]}\n":                            `6:15: roles.b.allow[0]: this is text`,
		"  b: {allow: [{}]}\n":                             `6:15: roles.b.allow[0]: the rule asks for nothing`,
		"  b: {allow: [any: false]}\n":                     `6:20: roles.b.allow[0].any: this is true or false, and any says nothing but true`,
		"  b: {allow: [any: 'true']}\n":                    `6:20: roles.b.allow[0].any: this is text, and any`,
		"  b: {allow: [{any: true, name: x}]}\n":           `6:16: roles.b.allow[0]: any beside other keys`,
		"  b: {allow: [name: '']}\n":                       `6:21: roles.b.allow[0].name: a pattern of 0 bytes`,
		"  b: {allow: [image: 1.10]}\n":                    `6:22: roles.b.allow[0].image: "1.10" is a number to YAML: put it in quotes`,
		"  b: {allow: [labels: {}]}\n":                     `6:23: roles.b.allow[0].labels: there are no labels`,
		"  b: {allow: [labels: {x: true}]}\n":              `6:27: roles.b.allow[0].labels.x: "true" is true or false to YAML`,
		"  a.: {allow: [any: true]}\n":                     `6:3: roles."a.": "a." cannot be the name of a role`,
		"  A: {allow: [any: true]}\n":                      `6:3: roles.A: "A" cannot be the name of a role`,
		"  ../x: {allow: [any: true]}\n":                   `6:3: roles."../x": "../x" cannot be the name of a role`,
		"  a: {allow: [any: true]}\n":                      `6:3: roles.a: the key is given twice, first in line 4`,
		"---\nregion: us-east-1\n":                         `7:1: a second document begins before this; allowed: one document`,
		" - x\n":                                           `6:2: this is not YAML: `,
		"socket: a: b\n":                                   `6:1: this is not YAML: mapping values are not allowed in this context`,
		"socket: \"x\n":                                    `6:1: this is not YAML: found unexpected end of stream`,
		"socket: [x\n":                                     `6:1: this is not YAML: `,
		"socket: \x00\n":                                   `6:9: this is not text; allowed: UTF-8`,
		"socket: é\xff\n":                                  `6:10: this is not text; allowed: UTF-8`,

		"guard: on\n":                          `6:8: guard: "on" is no mode of the guard; allowed: off, audit or enforce, or a mapping`,
		"guard: true\n":                        `6:8: guard: "true" is true or false to YAML`,
		"guard: []\n":                          `6:8: guard: this is a list`,
		"guard: {except: [{name: x}]}\n":       `6:8: guard: no mode is given`,
		"guard: {mode: audit, except: x}\n":    `6:30: guard.except: this is text`,
		"guard: {mode: audit, except: [{}]}\n": `6:31: guard.except[0]: an exception is one thing`,
		"guard: {mode: audit, except: [{network: 10.1.2.3/24}]}\n":             `6:41: guard.except[0].network: "10.1.2.3/24" is no network`,
		"guard: {mode: audit, except: [{network: 0.0.0.0/0}]}\n":               `6:41: guard.except[0].network: "0.0.0.0/0" is no network`,
		"guard: {mode: audit, except: [{network: 10.1.2.3}]}\n":                `6:41: guard.except[0].network: "10.1.2.3" is no network`,
		"engines: {docker: none}\nguard: {mode: audit, except: [{name: x}]}\n": `7:1: guard.except: names need an engine`,
	} {
		c, err := config.Parse("c.yaml", []byte(good+add))
		ps, _ := errors.AsType[config.Problems](err)
		most := 1
		if strings.Contains(add, "&") {
			most = 2
		}
		if c != nil || len(ps) < 1 || len(ps) > most || !strings.HasPrefix(ps[0].String(), "c.yaml:"+want) {
			t.Errorf("%q:\n got %v\nwant c.yaml:%s", add, err, want)
		}
		for _, p := range ps {
			if p.Line == 0 || p.Col == 0 || p.What == "" || p.Allowed == "" {
				t.Errorf("%q: %+v does not say where, what and what is allowed", add, p)
			}
		}
	}
}

func TestDocumentsThatSayNothing(t *testing.T) {
	for text, want := range map[string]string{
		"":              "c.yaml:1:1: the file says nothing; allowed: ",
		"# only this\n": "c.yaml:1:1: the file says nothing; allowed: ",
		"---\n":         "c.yaml:2:1: this is nothing; allowed: a mapping of account",
		"hello\n":       "c.yaml:1:1: this is text; allowed: a mapping of account",
		"{}\n":          "c.yaml:1:1: roles: no roles are given",
		"roles: {}\n":   "c.yaml:1:8: roles: there are no roles",
		"roles:\n":      "c.yaml:1:1: roles: nothing is given",
	} {
		_, err := config.Parse("c.yaml", []byte(text))
		if ps, ok := errors.AsType[config.Problems](err); !ok || len(ps) != 1 || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %s", text, err, want)
		}
	}
}

func TestManyProblemsStayReadable(t *testing.T) {
	_, err := config.Parse("c.yaml", []byte(good+strings.Repeat("x: 1\n", 5000)))
	if n := strings.Count(err.Error(), "\n"); n != 100 || !strings.Contains(err.Error(), "more problems") {
		t.Errorf("%d lines, want 100 and the number of the others", n)
	}
}

func TestHugeAndTwistedFilesEndSoon(t *testing.T) {
	const most = 1 << 20
	fill := func(s string) string { return strings.Repeat(s, most/len(s)) }
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		laughs += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ",") + "]\n"
	}
	for name, text := range map[string]string{
		"aliases": laughs, "open_lists": fill("["), "nested_lists": fill("- "), "open_mappings": fill("{a: "), "keys": fill("? "),
		"one_line": fill("x"), "comments": fill("#\n"), "quotes": good + fill("\"a\" "), "broken_at_the_end": good + fill("# x\n")[:most/16] + "x: y: z\n",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if c, err := config.Parse("c.yaml", []byte(text[:min(len(text), most)])); err == nil {
				t.Errorf("Parse = %v, want problems", c)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("Parse took %v", d)
			} else {
				t.Logf("Parse took %v", d)
			}
		})
	}
}

// FuzzParse: never a crash; a configuration has what the rest of the program relies on, or every problem has a place.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile(filepath.Join("..", "..", "examples", "config.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(good))
	f.Add([]byte("a: &x {b: *x}\n<<: *x\n"))
	f.Add([]byte("roles: {a: {allow: [{}, x, any: 1]}}\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("c.yaml", data)
		if err == nil {
			for _, r := range c.Roles {
				if r.ARN.String() == "" || len(r.Allow) == 0 || r.Duration < 15*time.Minute || r.IMDS == "" || r.Session == "" {
					t.Fatalf("a role without what it needs: %+v", r)
				}
			}
			if len(c.Roles) == 0 || c.Socket == "" || c.CDI.Dir == "" || c.STS.CallsPerSecond <= 0 {
				t.Fatalf("a configuration without what it needs: %+v", c)
			}
			return
		}
		ps, ok := errors.AsType[config.Problems](err)
		if !ok || len(ps) == 0 {
			t.Fatalf("Parse = %v, which is no Problems", err)
		}
		for _, p := range ps {
			if p.Line < 1 || p.Col < 1 || p.What == "" || p.Allowed == "" {
				t.Fatalf("a problem without a place, a sentence or what is allowed: %+v", p)
			}
		}
	})
}
