// Package doctor is "taskrole doctor": it puts together what the process, the engine, the agent and the configuration
// say, and lets package diagnose conclude.
//
// Each of them may be missing: by process number it works without engine and agent, and what it could not ask it names.
// It changes nothing, holds no secret, and refuses to guess.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
	"taskrole/internal/engine/monitors"
	"taskrole/internal/facts"
	"taskrole/internal/fault"
	"taskrole/internal/policy"
)

// Query is what is to be looked at: a container, a process, or, without either, the host.
type Query struct {
	Container  string
	PID        int
	Image      string   // of a container that is not started yet, with
	Args       []string // docker run's arguments
	SDKs       []string // names; "all" for every one; empty: what the process can have
	JSON       bool
	ConfigPath string
}

// Report is the answer.
type Report struct {
	Subject diagnose.Subject `json:"subject"`
	Role    string           `json:"role,omitempty"`
	// Libraries are the SDKs that were found in the process's program and files.
	Libraries []diagnose.Library `json:"libraries,omitempty"`
	Chains    []diagnose.Chain   `json:"chains,omitempty"`
	Findings  []diagnose.Finding `json:"findings"`
	Unseen    []string           `json:"unseen,omitempty"`
	Seconds   float64            `json:"seconds"`

	host    *diagnose.Host
	unfound bool // an SDK was looked for, and none was found
}

// limit bounds everything, so that a host on which everything hangs is diagnosed in 5 seconds.
const limit = 4500 * time.Millisecond

// Run looks, and writes a report. The error is a fault: doctor-findings if something of severity error was found.
func Run(ctx context.Context, q Query, out io.Writer) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sdks, err := parseSDKs(q.SDKs)
	if err != nil {
		return err
	}
	d := &doctor{query: q, sdks: sdks}
	d.settings()
	report, err := d.report(ctx)
	if err != nil {
		return err
	}
	report.Seconds = time.Since(begin).Seconds()
	if err := write(out, report, q.JSON); err != nil {
		return fault.As(fmt.Errorf("write the report: %w", err))
	}
	return verdict(report.Findings)
}

// verdict is the exit code's fault.
func verdict(found []diagnose.Finding) error {
	n := 0
	for _, f := range found {
		if f.Severity == diagnose.Error {
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return fault.New(fault.DoctorFindings, "1 thing keeps AWS credentials from working", "do what is listed under \"What to do\"")
	}
	return fault.New(fault.DoctorFindings, fmt.Sprintf("%d things keep AWS credentials from working", n), "do what is listed under \"What to do\", from the top")
}

func parseSDKs(names []string) ([]diagnose.SDK, error) {
	var sdks []diagnose.SDK
	for _, n := range names {
		if n == "all" {
			sdks = append(sdks, diagnose.SDKs()...)
			continue
		}
		s := diagnose.SDK(n)
		if !s.Valid() {
			known := make([]string, 0, len(diagnose.SDKs()))
			for _, k := range diagnose.SDKs() {
				known = append(known, string(k))
			}
			return nil, fault.New(fault.Usage, fmt.Sprintf("there is no SDK %q", n), "use all or some of "+strings.Join(known, ", ")+", or "+string(diagnose.IMDSv1))
		}
		sdks = append(sdks, s)
	}
	return sdks, nil
}

// doctor is one run.
type doctor struct {
	query  Query
	sdks   []diagnose.SDK
	cfg    *config.Config // nil: there is none that can be used
	cfgErr string
	socket string
	// engines are those that can be asked, and docker is Docker's address, "" for none.
	engines []api
	docker  string
	answer  chan answer // of the agent
	unseen  []string
}

// aims says whether something else than the host is looked at, whose configuration is a finding.
func (d *doctor) aims() bool {
	return d.query.Container != "" || d.query.PID != 0 || d.query.Image != ""
}

// settings reads where the agent and the engine are.
func (d *doctor) settings() {
	d.socket, d.docker = control.DefaultSocket, config.DefaultDocker
	d.engines = findEngines(nil)
	cfg, err := config.Load(d.query.ConfigPath)
	if err != nil {
		d.cfgErr = err.Error()
		if f := (*fault.Error)(nil); errors.As(err, &f) {
			d.cfgErr = f.What
		}
		if _, err := os.Stat(d.query.ConfigPath); err == nil && d.aims() { // without taskrole there is none
			d.unseen = append(d.unseen, "the configuration: it cannot be used; \"taskrole doctor\" says why")
		}
		return
	}
	d.cfg, d.socket, d.docker, d.engines = cfg, cfg.Socket, cfg.Docker, findEngines(cfg)
}

func (d *doctor) report(ctx context.Context) (*Report, error) {
	if d.query.Container != "" || d.query.PID != 0 {
		d.askAgent(ctx)
	}
	switch {
	case d.query.Container != "":
		return d.container(ctx)
	case d.query.PID != 0:
		return d.byNumber(ctx)
	case d.query.Image != "":
		return d.plan(ctx), nil
	default:
		return d.host(ctx), nil
	}
}

// looks is how often a process is looked at that becomes another program meanwhile, and startLimit how long it may be
// the OCI runtime's.
const (
	looks      = 3
	startLimit = time.Second
	startPause = 10 * time.Millisecond
)

// open opens a process once it is the application's.
func open(ctx context.Context, pid int) (*facts.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		p, err := facts.Open(ctx, pid)
		if err != nil || !p.Starting() {
			return p, err
		}
		select {
		case <-ctx.Done():
			return p, nil // its name is in the report
		case <-time.After(startPause):
			_ = p.Close() // descriptors for looking only
		}
	}
}

// process looks at a process.
func (d *doctor) process(ctx context.Context, pid int) (f *diagnose.Facts, err error) {
	for range looks {
		p, err := open(ctx, pid)
		if err != nil {
			return nil, err
		}
		f = p.Look(ctx)
		again := p.Replaced(ctx)
		_ = p.Close() // descriptors for looking only
		if !again {
			break
		}
	}
	return f, nil
}

// byNumber looks at a process, and asks the engines meanwhile whose it is.
func (d *doctor) byNumber(ctx context.Context) (*Report, error) {
	p, err := open(ctx, d.query.PID)
	if err != nil {
		return nil, err
	}
	id := container.ID(p.ContainerID())
	_ = p.Close() // descriptors for looking only
	var whose found
	var unseen []string
	var asking sync.WaitGroup
	asking.Go(func() { whose, unseen = d.lookup(ctx, d.query.PID, id) })
	f, err := d.process(ctx, d.query.PID)
	asking.Wait()
	if err != nil {
		return nil, err
	}
	d.unseen = append(d.unseen, unseen...)
	f.Subject.Container = id.Short()
	if whose.engine != "" {
		whose.PID = d.query.PID // this one runs, whatever the engine says of the first
		known(f, whose)
		id = whose.ID
	}
	whose.ID = id
	d.agent(f, whose.Container, nil)
	return d.conclude(f), nil
}

// lookup asks the engines who the process's container is. Where none says so, its monitor may know a name.
func (d *doctor) lookup(ctx context.Context, pid int, id container.ID) (found, []string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var s search
	if id != "" {
		var wg sync.WaitGroup
		for _, a := range d.engines {
			wg.Go(func() { s.ask(ctx, a, string(id)) })
		}
		wg.Wait()
	}
	if len(s.found) > 0 {
		return s.found[0], nil
	}
	list, err := monitors.Running(ctx)
	if err != nil {
		s.silent(err)
	}
	var unseen []string
	for _, err := range s.mute {
		unseen = append(unseen, "what an engine says of the container: "+clean(fault.As(err).What))
	}
	for _, m := range list {
		if m.PID == pid || id != "" && m.ID == id {
			return fromMonitor(m), unseen
		}
	}
	return found{}, unseen
}

// known puts the engine's words into the facts.
func known(f *diagnose.Facts, c found) {
	f.Subject.Engine, f.Subject.EngineUser = c.engine, c.uid
	f.Subject.Container, f.Subject.Image, f.Subject.Network = clean(c.Title()), clean(c.Image), clean(c.Network)
	if c.PID == 0 {
		f.Subject.NotRunning, f.Subject.Stopped = true, clean(c.Error)
	}
}

// container looks at a container by an engine's name for it.
func (d *doctor) container(ctx context.Context) (*Report, error) {
	c, err := d.find(ctx)
	if err != nil {
		return nil, err
	}
	f := &diagnose.Facts{}
	if c.PID != 0 {
		if f, err = d.process(ctx, c.PID); err != nil {
			return nil, err
		}
	} else {
		facts.Recorded(c.Env, f)
		d.unseen = append(d.unseen, "its process: the container does not run ("+c.Status+"), so that only what the engine wrote down is looked at")
	}
	known(f, c)
	if !c.Known {
		d.unseen = append(d.unseen, "its image, labels and network as "+c.engine+" has them: the container was found by the process that watches over it")
	}
	d.images(ctx, f, c)
	d.agent(f, c.Container, c.Devices)
	return d.conclude(f), nil
}

// answer is what the agent says.
type answer struct {
	list control.ListReply
	err  error
}

// askAgent asks the agent, which may be long in answering, beside everything else.
func (d *doctor) askAgent(ctx context.Context) {
	d.answer = make(chan answer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		list, err := control.List(ctx, d.socket)
		d.answer <- answer{list, err}
	}()
}

// agent says what the agent and the configuration say about the container.
func (d *doctor) agent(f *diagnose.Facts, c container.Container, devices []string) {
	f.Role.Wanted = wanted(f, c, devices, d.cfg)
	a := <-d.answer
	list, err, id := a.list, a.err, c.ID
	switch fault.CodeOf(err) {
	case "":
		f.Role.Asked = diagnose.AgentUp
	case fault.AgentUnreachable:
		f.Role.Asked = diagnose.AgentDown
	default:
		d.unseen = append(d.unseen, "what the agent says: "+fault.As(err).What)
	}
	for _, a := range list.Containers {
		if a.PID == f.Subject.PID && a.PID != 0 || unique(id) && a.ID == id {
			f.Role.Name, f.Role.ARN = a.Role, a.RoleARN
			f.Role.Missing, f.Role.Gone = missing(a.Endpoints, f.Net), a.Missing
			if a.Trouble != nil {
				f.Role.Problem = trouble(*a.Trouble)
			}
		}
	}
	for _, r := range list.Refusals { // the last first
		if id != "" && r.ID == id && f.Role.Name == "" && f.Role.Problem == "" {
			f.Role.Problem = trouble(r.Trouble)
		}
	}
	d.configured(f, c)
}

// unique says that no two engines, nor two of containerd's namespaces, have a container of this id.
func unique(id container.ID) bool {
	const drawn = 64
	return len(id) == drawn
}

// trouble is what the agent says about a container.
func trouble(t control.Trouble) string { return fmt.Sprintf("%s [%s]", t.What, t.Code) }

// configured asks the configuration about the role.
func (d *doctor) configured(f *diagnose.Facts, c container.Container) {
	name := cmp.Or(f.Role.Name, f.Role.Wanted)
	if d.cfg == nil || name == "" {
		return
	}
	role, err := d.cfg.Role(name)
	if err == nil {
		f.Role.Sent = sent(role)
		f.Role.ARN, f.Role.IMDS = cmp.Or(f.Role.ARN, role.ARN.String()), string(role.IMDS)
	}
	if f.Role.Name != "" {
		return
	}
	if err != nil {
		f.Role.Denied, f.Role.Trace = true, []string{"configuration: " + fault.As(err).What}
		return
	}
	if decision := policy.Decide(role.Allow, d.asAgent(c)); !decision.Allowed {
		f.Role.Denied, f.Role.Trace = true, decision.Trace
	}
}

// asAgent is the container as the agent sees it, which asks only the engines that its configuration names.
func (d *doctor) asAgent(c container.Container) container.Container {
	if c.Engine == enginePodman && d.cfg.Podman == "" {
		return container.Container{ID: c.ID}
	}
	return c
}

// missing are the IPv4 addresses of the endpoints that the namespace does not have. IPv6 may be switched off in it.
func missing(endpoints []string, n diagnose.Network) []string {
	if !n.Known {
		return nil
	}
	var m []string
	for _, e := range endpoints {
		ap, err := netip.ParseAddrPort(e)
		if err != nil || !ap.Addr().Is4() || ap.Addr().IsLoopback() {
			continue
		}
		if s := ap.Addr().String(); !slices.Contains(n.OnLo, s) && !slices.Contains(m, s) {
			m = append(m, s)
		}
	}
	return m
}

// relativeRE is the value that taskrole gives a container.
var relativeRE = regexp.MustCompile(`^/v2/credentials/([a-zA-Z0-9._-]{1,64})$`)

// wanted is the role that the container asks for, by what taskrole goes by itself.
func wanted(f *diagnose.Facts, c container.Container, devices []string, cfg *config.Config) string {
	for _, dev := range devices {
		if name, ok := strings.CutPrefix(dev, "taskrole/role="); ok {
			return name
		}
	}
	if v := f.Env["TASKROLE"].Text; v != "" {
		return v
	}
	if v := c.Labels["taskrole"]; v != "" {
		return v
	}
	// The same path is that of ECS. It is ours if the addresses are, or if the configuration has the name.
	m := relativeRE.FindStringSubmatch(f.Env["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"].Text)
	if m == nil {
		return ""
	}
	if cfg != nil {
		if _, err := cfg.Role(m[1]); err == nil {
			return m[1]
		}
	}
	if len(f.Net.OnLo) > 1 {
		return m[1]
	}
	return ""
}

// conclude makes the report of a process or container.
func (d *doctor) conclude(f *diagnose.Facts) *Report {
	if len(d.sdks) > 0 {
		f.SDKs = d.sdks
	}
	if f.Host.Now.IsZero() {
		f.Host.Now = time.Now()
	}
	if d.cfg != nil {
		f.Host.Guard = string(d.cfg.Guard.Mode)
	}
	f.Host.ConfigPath = d.query.ConfigPath
	h := facts.Host()
	f.Host.SkLookup, f.Host.Kernel = h.SkLookup, h.Kernel
	r := &Report{Subject: f.Subject, Role: f.Role.Name, Libraries: f.Libraries, Findings: diagnose.Findings(f), Unseen: append(d.unseen, f.Unseen...)}
	if !f.Subject.NotRunning {
		r.Chains = diagnose.Chains(f)
	}
	r.unfound = f.Subject.PID != 0 && len(f.Libraries) == 0 && len(d.sdks) == 0
	return r
}

// host looks at the host itself.
func (d *doctor) host(ctx context.Context) *Report {
	f := &diagnose.Facts{Host: facts.Host()}
	f.Host.ConfigPath, f.Host.ConfigError, f.Host.Now = d.query.ConfigPath, d.cfgErr, time.Now()
	if d.cfg != nil {
		f.Host.Roles, f.Host.Guard = len(d.cfg.Roles), string(d.cfg.Guard.Mode)
	}
	switch _, err := control.List(ctx, d.socket); fault.CodeOf(err) {
	case "":
		f.Role.Asked = diagnose.AgentUp
	case fault.AgentUnreachable:
		f.Role.Asked = diagnose.AgentDown
	default:
		d.unseen = append(d.unseen, "what the agent says: "+fault.As(err).What)
	}
	for _, a := range d.engines {
		if err := a.answers(ctx); err != nil {
			f.Host.Engine = fault.As(err).What
		}
	}
	r := &Report{Findings: diagnose.Findings(f), Unseen: d.unseen, host: &f.Host}
	r.Unseen = append(r.Unseen, "the instance's hop limit and token option: the host cannot read them; "+
		"\"aws ec2 describe-instances --query 'Reservations[].Instances[].MetadataOptions'\" shows them")
	return r
}
