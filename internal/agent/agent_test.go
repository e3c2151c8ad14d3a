package agent_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"taskrole/internal/agent"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/testkit/actor"
	"taskrole/lab/cloud"
)

const (
	credentialsURL = "http://169.254.170.2/v2/credentials/reader"
	imdsRoleURL    = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
	tokenURL       = "http://169.254.169.254/latest/api/token"
)

// document is what an SDK reads of the container's credentials.
type document struct {
	AccessKeyID string `json:"AccessKeyId"`
	RoleArn     string
	Expiration  time.Time
}

// ask asks for them as an SDK does.
func ask(t *testing.T, a *actor.Actor) (doc document) {
	t.Helper()
	answer := a.Do("get " + credentialsURL)
	body, ok := strings.CutPrefix(answer, "200 ")
	if !ok {
		t.Fatalf("GET credentials = %s", answer)
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestContainerGetsItsRoleAndAfterwardsNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	reply, err := w.attach("c0ffee", "reader", a, a)
	if err != nil {
		t.Fatal(err)
	}
	if reply.Already || reply.RoleARN != cloud.RoleARN(cloud.TaskReader) || reply.Session != "reader-c0ffee" {
		t.Errorf("reply = %+v", reply)
	}
	doc := ask(t, a)
	if left := time.Until(doc.Expiration); doc.RoleArn != reply.RoleARN || left < 30*time.Minute {
		t.Errorf("served %s with %s left", doc.RoleArn, left)
	}
	c, err := w.cloud.Account().Resolve(doc.AccessKeyID, "")
	if c != nil || err == nil {
		t.Errorf("the account knows the key as a lasting one: %v, %v", c, err)
	}
	again, err := w.attach("c0ffee", "reader", a, a)
	if err != nil || !again.Already || again.Session != reply.Session {
		t.Errorf("second attach = %+v, %v", again, err)
	}
	if n := w.cloud.Calls().Counts["sts"]["AssumeRole"]; n != 1 {
		t.Errorf("%d calls of AssumeRole, want 1", n)
	}
	a.End()
	w.eventually("detached", func() bool { return len(w.list()) == 0 })
	if left, _ := filepath.Glob(filepath.Join(w.dir, "containers", "*")); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
}

func TestEveryRefusalIsOneSentenceAndLeavesNothing(t *testing.T) {
	w := newWorld(t)
	ns, other := actor.NewNS(t), actor.NewNS(t)
	a, b := actor.Start(t, ns, ""), actor.Start(t, other, "")
	host := actor.StartHere(t)
	for name, c := range map[string]struct {
		role     string
		p, space *actor.Actor
		code     fault.Code
		says     string
	}{
		"unknown role":        {"raeder", a, a, fault.RoleUnknown, "reader"}, // the nearest name
		"policy says no":      {"forbidden", a, a, fault.RoleNotAllowed, "roles.forbidden.allow"},
		"STS says no":         {"untrusted", a, a, fault.STSDenied, "is not authorized to perform: sts:AssumeRole"},
		"host network":        {"reader", host, host, fault.HostNetwork, "--network"},
		"another's namespace": {"reader", a, b, fault.RequestInvalid, "descriptors"},
		"the host's process":  {"reader", host, a, fault.RequestInvalid, "descriptors"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			_, err := w.attach("c0ffee", c.role, c.p, c.space)
			if got := fault.As(err); got == nil || got.Code != c.code || !strings.Contains(got.Error(), c.says) || strings.Contains(got.Error(), "\n") {
				t.Errorf("attach = %v; want one line, code %s, with %q", err, c.code, c.says)
			}
		})
	}
	if ids := w.list(); len(ids) != 0 {
		t.Errorf("attached after refusals: %v", ids)
	}
	if got := a.Do("get " + credentialsURL); !strings.HasPrefix(got, "error:") {
		t.Errorf("after refusals the container finds %s", got)
	}
}

func TestEngineThatDoesNotAnswerRefusesOnlyWhereARuleNeedsIt(t *testing.T) {
	w := newWorld(t)
	if err := w.engine.Close(); err != nil {
		t.Fatal(err)
	}
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "forbidden", a, a); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("attach with a rule about the name = %v", err)
	}
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Errorf("attach with a rule for any container = %v", err)
	}
}

func TestSTSOutageRefusesTheStart(t *testing.T) {
	w := newWorld(t)
	if err := w.cloud.SetFault(cloud.Fault{Service: "sts", Kind: cloud.Throttle}); err != nil {
		t.Fatal(err)
	}
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); fault.CodeOf(err) != fault.STSUnreachable {
		t.Errorf("attach while STS throttles = %v", err)
	}
	w.cloud.ClearFaults("sts")
	w.eventually("STS is asked again", func() bool { // the failure answers for a few seconds
		_, err := w.attach("c0ffee", "reader", a, a)
		return err == nil
	})
}

func TestNewAgentAttachesAgainWhatTheOldOneHad(t *testing.T) {
	w := newWorld(t)
	a, b := actor.Start(t, actor.NewNS(t), ""), actor.Start(t, actor.NewNS(t), "")
	reply, err := w.attach("c0ffee", "reader", a, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.attach("decade", "reader", b, b); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimPrefix(a.Do("put "+tokenURL+" X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600"), "200 ")
	w.stop()
	if got := a.Do("get " + credentialsURL); !strings.Contains(got, "refused") {
		t.Errorf("without an agent GET = %s, want refused", got)
	}
	b.End() // ends while nobody watches
	w.start()
	w.eventually("attached again", func() bool { return len(w.list()) == 1 })
	if got := ask(t, a); got.RoleArn != reply.RoleARN {
		t.Errorf("the new agent serves %s", got.RoleArn)
	}
	if got := a.Do("get " + imdsRoleURL + " X-Aws-Ec2-Metadata-Token: " + token); got != "200 task-s3-reader" {
		t.Errorf("IMDS with the token of the old agent = %s", got)
	}
	list, err := control.List(t.Context(), w.socket)
	if err != nil || len(list.Containers) != 1 || list.Containers[0].Session != reply.Session {
		t.Errorf("list = %+v, %v; want the session %s", list, err, reply.Session)
	}
	if records, _ := filepath.Glob(filepath.Join(w.dir, "containers", "*")); len(records) != 1 {
		t.Errorf("records: %v, want that of c0ffee alone", records)
	}
}

func TestReloadKeepsTheOldConfigurationWhenTheNewOneIsBroken(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	good, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(w.dir, "cdi", "taskrole.json")
	before, err := os.ReadFile(spec)
	if err != nil {
		t.Fatal(err)
	}

	w.write("config.yaml", string(good)+"  reader: {}\nbogus: 1\n")
	w.sighup("cannot be used")
	if log := w.log.String(); !strings.Contains(log, "config.yaml:") || !strings.Contains(log, "bogus") {
		t.Errorf("the log does not name the problem: %s", log)
	}
	if now, _ := os.ReadFile(spec); string(now) != string(before) {
		t.Error("a broken configuration changed the CDI document")
	}
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Errorf("with the old configuration kept, attach = %v", err)
	}

	w.write("config.yaml", strings.ReplaceAll(string(good), "  forbidden:", "  renamed:"))
	w.sighup("configuration reloaded")
	if now, _ := os.ReadFile(spec); !strings.Contains(string(now), `"renamed"`) || strings.Contains(string(now), `"forbidden"`) {
		t.Errorf("the CDI document after a reload: %s", now)
	}
	w.write("config.yaml", strings.ReplaceAll(string(good), "agent.sock", "other.sock"))
	w.sighup("change only with a restart")
	if got := ask(t, a); got.RoleArn == "" {
		t.Error("a reload disturbed an attached container")
	}
}

func TestSecondAgentIsRefusedAndHarmsNothing(t *testing.T) {
	w := newWorld(t)
	spec := filepath.Join(w.dir, "cdi", "taskrole.json")
	if err := os.Remove(spec); err != nil { // a second agent must not come as far as writing it
		t.Fatal(err)
	}
	err := agent.Run(t.Context(), agent.Options{ConfigPath: w.config, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("a second agent on the same socket: %v", err)
	}
	if _, err := os.Stat(spec); err == nil {
		t.Error("the second agent wrote the CDI document")
	}
	if ids := w.list(); len(ids) != 0 {
		t.Errorf("the first agent answers %v", ids)
	}
}
