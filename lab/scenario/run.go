package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"taskrole/internal/container"
	"taskrole/lab/ec2"
	"taskrole/lab/probe/report"
)

// Metadata is the part of the account that the story changes while it runs.
type Metadata interface {
	// SetHopLimit changes the hop limit of the metadata service.
	SetHopLimit(n int) error
	// SetTokensRequired switches IMDSv1 off and on.
	SetTokensRequired(required bool)
	// Expire ends the session of one access key and says whether there was one.
	Expire(accessKeyID string) bool
}

// Stage is where the story is played. All fields are required.
type Stage struct {
	Account  Account
	Metadata Metadata
	Engine   ec2.Engine
	// Host runs the probe on the instance itself, outside any container.
	Host func(ctx context.Context, args ...string) (ec2.Result, error)
	// Container is what every container of the story has in common: image, probe, environment.
	Container ec2.Container
	// Way is how containers come to taskrole on this engine.
	Way container.Way
	// Role and IsolatedRole are names of the agent's configuration: the second has a way out of --network none.
	Role, IsolatedRole string
	// Progress is called with every cell as soon as it has been judged, by one goroutine at a time.
	Progress func(c Cell, done, all int)
}

// play is one run of the story.
type play struct {
	Stage
	mu    sync.Mutex // guards what follows
	cells []Cell
	errs  []error
}

// Run plays the story and returns the cells in the order of the table. The error says what kept a cell from being
// measured, or that ctx ended; a cell that came out wrong is no error.
func Run(ctx context.Context, s Stage) ([]Cell, error) {
	p := &play{Stage: s}
	keys, err := p.copyKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("copy the instance's keys: %w", err)
	}
	err = p.act(ctx, keys)
	slices.SortFunc(p.cells, func(a, b Cell) int {
		return 2*(slices.Index(rows(), a.Where)-slices.Index(rows(), b.Where)) + strings.Compare(string(a.Column), string(b.Column))
	})
	return p.cells, errors.Join(err, ctx.Err(), errors.Join(p.errs...))
}

// act is the story in three parts, because the hop limit is the whole instance's, and so is the end of its keys.
func (p *play) act(ctx context.Context, keys report.Keys) error {
	if err := p.setMetadata(2, false); err != nil {
		return err
	}
	// The one client that nothing below changes waits longest, beside all the others.
	var patient sync.WaitGroup
	defer patient.Wait()
	patient.Go(func() { p.container(ctx, None, Plain, ec2.NetworkNone, "") })
	var copied Outcome
	p.together(
		func() { p.cell(ctx, Host, Plain, func() (Outcome, error) { return p.onHost(ctx) }) },
		func() { p.container(ctx, None, Taskrole, ec2.NetworkNone, p.IsolatedRole) },
		func() { p.container(ctx, Bridge, Plain, ec2.NetworkBridge, "") },
		func() { p.container(ctx, Bridge, Taskrole, ec2.NetworkBridge, p.Role) },
		func() { p.container(ctx, Custom, Plain, ec2.NetworkCustom, "") },
		func() { p.container(ctx, Custom, Taskrole, ec2.NetworkCustom, p.Role) },
		func() { p.container(ctx, HostNetwork, Plain, ec2.NetworkHost, "") },
		func() { p.container(ctx, HostNetwork, Taskrole, ec2.NetworkHost, p.Role) },
		func() { p.container(ctx, CopiedWithoutToken, Plain, ec2.NetworkBridge, "", twoOf(keys)...) },
		func() {
			copied = p.note(p.launch(ctx, CopiedWithToken, Plain, ec2.NetworkBridge, "", threeOf(keys)...))
		},
	)
	if err := p.setMetadata(1, true); err != nil {
		return err
	}
	p.together(
		func() { p.container(ctx, HopLimit1, Plain, ec2.NetworkBridge, "") },
		func() {
			// The agent's own keys are the ones that are about to end, so its last container comes first.
			p.container(ctx, HopLimit1, Taskrole, ec2.NetworkBridge, p.Role)
			p.cell(ctx, CopiedWithToken, Plain, func() (Outcome, error) { return p.afterTheEnd(ctx, keys, copied) })
		},
	)
	return p.setMetadata(2, false)
}

func (p *play) setMetadata(hops int, tokens bool) error {
	p.Metadata.SetTokensRequired(tokens)
	if err := p.Metadata.SetHopLimit(hops); err != nil {
		return fmt.Errorf("set the hop limit: %w", err)
	}
	return nil
}

// atOnce bounds how many clients run at once: more of them than there are processors would only measure each other.
const atOnce = 4

func (p *play) together(steps ...func()) {
	var wg sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for _, step := range steps {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			step()
		})
	}
	wg.Wait()
}

func (p *play) container(ctx context.Context, where Where, column Column, network ec2.Network, role string, env ...string) {
	p.cell(ctx, where, column, func() (Outcome, error) { return p.launch(ctx, where, column, network, role, env...) })
}

// cell measures and judges one cell; after the end of ctx it does nothing.
func (p *play) cell(ctx context.Context, where Where, column Column, measure func() (Outcome, error)) {
	if ctx.Err() != nil {
		return
	}
	o, err := measure()
	if ctx.Err() != nil {
		return // whatever was measured was cut short
	}
	c := judge(p.Account, where, column, o)
	if err != nil {
		c.Wrong = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cells = append(p.cells, c)
	all := 0
	for _, columns := range expectations() {
		all += len(columns)
	}
	p.Progress(c, len(p.cells), all)
}

// note keeps the error of a measurement that is judged later.
func (p *play) note(o Outcome, err error) Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, err)
	return o
}

func (p *play) onHost(ctx context.Context) (Outcome, error) {
	r, err := p.Host(ctx)
	if err != nil {
		return Outcome{}, err
	}
	return measured(r)
}

// launch runs the client in a container; role is empty for a plain one.
func (p *play) launch(ctx context.Context, where Where, column Column, network ec2.Network, role string, env ...string) (Outcome, error) {
	c := p.Container
	c.Name = "demo-" + string(where) + "-" + string(column)
	c.Network = network
	c.Env = slices.Concat(c.Env, env)
	if role != "" {
		c.Role, c.Way = role, p.Way
	}
	r, err := p.Engine.Run(ctx, c)
	if err != nil {
		return Outcome{}, err
	}
	return measured(r)
}

// firstRefusal is the lowest of the exit codes by which engines say that a container did not start.
const firstRefusal = 125

// measured reads what a client or an engine wrote.
func measured(r ec2.Result) (Outcome, error) {
	o := Outcome{Elapsed: r.Elapsed}
	if r.Exit >= firstRefusal && len(bytes.TrimSpace(r.Stdout)) == 0 {
		o.Refusal = strings.TrimSpace(string(r.Stderr))
		return o, nil
	}
	if err := json.Unmarshal(r.Stdout, &o.Report); err != nil {
		return o, fmt.Errorf("the client ended with %d and wrote %q, %q", r.Exit, cut(string(r.Stdout), 200), cut(string(r.Stderr), 400))
	}
	return o, nil
}

// afterTheEnd ends the copied keys and asks the same client once more.
func (p *play) afterTheEnd(ctx context.Context, keys report.Keys, first Outcome) (Outcome, error) {
	if !p.Metadata.Expire(keys.AccessKeyID) {
		return first, errors.New("the copied keys have no session to end")
	}
	// Another name: docker may still be removing the first container.
	second, err := p.launch(ctx, CopiedWithToken, "later", ec2.NetworkBridge, "", threeOf(keys)...)
	if err == nil && second.Refusal != "" {
		err = fmt.Errorf("the second container was refused: %s", second.Refusal)
	}
	if err != nil {
		return first, err
	}
	first.Later = &second.Report
	return first, nil
}

func (p *play) copyKeys(ctx context.Context) (report.Keys, error) {
	var k report.Keys
	r, err := p.Host(ctx, "keys")
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(r.Stdout, &k); err != nil || k.AccessKeyID == "" || k.SecretAccessKey == "" || k.SessionToken == "" {
		return k, fmt.Errorf("the instance has no keys: %s", cut(oneLine(string(r.Stderr)), 400))
	}
	return k, nil
}

// twoOf is how keys are copied by people who know two names.
func twoOf(k report.Keys) []string {
	return []string{"AWS_ACCESS_KEY_ID=" + k.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + k.SecretAccessKey}
}

func threeOf(k report.Keys) []string { return append(twoOf(k), "AWS_SESSION_TOKEN="+k.SessionToken) }
