package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/lab/ec2"
	"taskrole/lab/probe/report"
)

// world is an engine, an instance and an account that behave as the real ones, from memory.
type world struct {
	mu       sync.Mutex
	hops     int
	required bool
	expired  bool
	ran      []ec2.Container
	fail     string // name of a container that the engine cannot be asked for
	onRun    func()
}

func (w *world) SetHopLimit(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hops = n
	return nil
}

func (w *world) SetTokensRequired(required bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.required = required
}

func (w *world) Expire(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expired = key == "ASIAX"
	return w.expired
}
func (*world) Name() string { return "fake" }
func (*world) Close() error { return nil }

func result(o Outcome) ec2.Result {
	if o.Refusal != "" {
		return ec2.Result{Exit: 125, Stderr: []byte(o.Refusal), Elapsed: o.Elapsed}
	}
	b, err := json.Marshal(o.Report)
	if err != nil {
		panic(err)
	}
	exit := 0
	if o.Report.Errors.First() != "" {
		exit = 1
	}
	return ec2.Result{Exit: exit, Stdout: b, Elapsed: o.Elapsed}
}

func (w *world) Run(_ context.Context, c ec2.Container) (ec2.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ran = append(w.ran, c)
	if w.onRun != nil {
		w.onRun()
	}
	if c.Name == w.fail {
		return ec2.Result{}, errors.New("the engine is gone")
	}
	g := good()
	has := func(name string) bool {
		return slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	switch {
	case has("AWS_SESSION_TOKEN") && w.expired:
		return result(Outcome{Report: *g[CopiedWithToken][Plain].Later}), nil
	case has("AWS_SESSION_TOKEN"):
		return result(answer(hostARN, "a", "b")), nil
	case has("AWS_ACCESS_KEY_ID"):
		return result(g[CopiedWithoutToken][Plain]), nil
	case c.Way != "" && c.Network == ec2.NetworkHost:
		return result(g[HostNetwork][Taskrole]), nil
	case c.Way != "" && c.Role == "isolated" && c.Network == ec2.NetworkNone, c.Way != "" && c.Role == "app" && c.Network != ec2.NetworkNone:
		return result(answer(taskARN, "a", "b")), nil
	case c.Network == ec2.NetworkNone, c.Network == ec2.NetworkBridge && w.hops == 1 && w.required:
		return result(g[HopLimit1][Plain]), nil
	}
	return result(answer(hostARN, "a", "b")), nil
}

func (w *world) stage() Stage {
	return Stage{
		Account: account(), Metadata: w, Engine: w, Way: container.WayShim, Role: "app", IsolatedRole: "isolated",
		Container: ec2.Container{Env: []string{"AWS_REGION=x"}, Args: []string{"/probe"}},
		Host: func(_ context.Context, args ...string) (ec2.Result, error) {
			if len(args) == 1 && args[0] == "keys" {
				return ec2.Result{Stdout: []byte(`{"access_key_id":"ASIAX","secret_access_key":"s","session_token":"t"}`)}, nil
			}
			return result(answer(hostARN, "a", "b")), nil
		},
		Progress: func(Cell, int, int) {},
	}
}

func TestRunMeasuresEveryCellAndTellsOfEach(t *testing.T) {
	w := &world{}
	s := w.stage()
	var told []int
	s.Progress = func(_ Cell, done, all int) {
		if all != 13 {
			t.Errorf("%d cells in all, want 13", all)
		}
		told = append(told, done)
	}
	cells, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range cells {
		if !c.OK() {
			t.Errorf("%s, %s: %s", c.Where, c.Column, c.Wrong)
		}
		names = append(names, string(c.Where)+" "+string(c.Column))
	}
	want := []string{
		"host plain", "bridge plain", "bridge taskrole", "custom plain", "custom taskrole", "host-network plain", "host-network taskrole",
		"none plain", "none taskrole", "hop-limit-1 plain", "hop-limit-1 taskrole", "copied-without-token plain", "copied-with-token plain",
	}
	if !slices.Equal(names, want) {
		t.Errorf("cells %q, want %q", names, want)
	}
	if len(told) != 13 || told[12] != 13 {
		t.Errorf("progress %v", told)
	}
	if w.hops != 2 || w.required {
		t.Errorf("the metadata service is left with hop limit %d, tokens required %v", w.hops, w.required)
	}
	seen := map[string]bool{}
	for _, c := range w.ran {
		if seen[c.Name] || c.Name == "" {
			t.Errorf("two containers are called %q", c.Name)
		}
		seen[c.Name] = true
		if (c.Role == "") != (c.Way == "") {
			t.Errorf("%s: role %q by way %q", c.Name, c.Role, c.Way)
		}
	}
}

func TestACellThatCannotBeMeasuredIsWrongAndTheOthersGoOn(t *testing.T) {
	w := &world{fail: "demo-bridge-taskrole"}
	cells, err := Run(t.Context(), w.stage())
	if err != nil || len(cells) != 13 {
		t.Fatalf("%d cells, %v", len(cells), err)
	}
	for _, c := range cells {
		if bad := c.Where == Bridge && c.Column == Taskrole; c.OK() == bad {
			t.Errorf("%s, %s: %q", c.Where, c.Column, c.Wrong)
		}
	}
}

func TestAFailureOfTheFirstHalfOfCopiedWithTokenIsSeen(t *testing.T) {
	w := &world{fail: "demo-copied-with-token-plain"}
	cells, err := Run(t.Context(), w.stage())
	if err == nil || cells[len(cells)-1].OK() {
		t.Errorf("error %v, last cell %+v", err, cells[len(cells)-1])
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{onRun: cancel}
	_, err := Run(ctx, w.stage())
	if !errors.Is(err, context.Canceled) || len(w.ran) > atOnce+1 {
		t.Errorf("%d containers, %v", len(w.ran), err)
	}
	if w.hops != 2 || w.required {
		t.Error("the metadata service is left changed")
	}
}

func TestRunNeedsTheKeysOfTheInstance(t *testing.T) {
	s := (&world{}).stage()
	s.Host = func(context.Context, ...string) (ec2.Result, error) {
		return ec2.Result{Exit: 1, Stderr: []byte("no EC2 IMDS role found")}, nil
	}
	if _, err := Run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "no EC2 IMDS role found") {
		t.Errorf("error %v", err)
	}
}

func TestOutputThatIsNoReportIsAnError(t *testing.T) {
	for name, r := range map[string]ec2.Result{
		"nothing": {Exit: 1, Stderr: []byte("panic")}, "text": {Stdout: []byte("hello")}, "killed": {Exit: 137, Stdout: []byte("{")},
	} {
		o, err := measured(r)
		if c := judge(account(), None, Plain, o); err == nil && c.OK() {
			t.Errorf("%s passes as %+v", name, o)
		}
	}
	o, err := measured(result(Outcome{Report: report.Report{ARN: "x"}, Elapsed: time.Second}))
	if err != nil || o.Report.ARN != "x" {
		t.Errorf("a report is read as %+v, %v", o, err)
	}
}
