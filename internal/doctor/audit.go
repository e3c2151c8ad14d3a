package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"taskrole/internal/audit"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
	"taskrole/internal/engine/docker"
	"taskrole/internal/engine/monitors"
	"taskrole/internal/facts"
	"taskrole/internal/fault"
	"taskrole/internal/table"
)

// AuditQuery is how an audit is written.
type AuditQuery struct {
	JSON, SARIF bool
	ConfigPath  string
	Version     string // of this program
}

// auditLimit bounds an audit of a host with many containers.
const auditLimit = 2 * time.Minute

// listLimit bounds the question for an engine's containers, which needs milliseconds.
const listLimit = 5 * time.Second

// atOnce is how many containers are looked at at a time.
const atOnce = 8

// Audit lists who has which AWS identity on this host. The error is a fault: doctor-findings if a key that never
// expires was found, engine-unreachable if an engine that is here did not answer.
func Audit(ctx context.Context, q AuditQuery, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	d := &doctor{query: Query{ConfigPath: q.ConfigPath}}
	d.settings()
	s := d.survey(ctx)
	all := audit.Sort(s.all)
	if err := writeAudit(out, all, q); err != nil {
		return fault.As(fmt.Errorf("write the audit: %w", err))
	}
	switch n := audit.Failing(all); n {
	case 0:
		return s.mute
	case 1:
		return fault.New(fault.DoctorFindings, "1 long-lived key is on this host", "delete it in IAM and use a role; doc/audit.md")
	default:
		return fault.New(fault.DoctorFindings, fmt.Sprintf("long-lived keys are at %d places on this host", n), "delete them in IAM and use roles; doc/audit.md")
	}
}

// survey is what an audit gathers.
type survey struct {
	*doctor

	roles map[container.ID]control.Attached
	slots chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex // guards what follows
	all  []audit.Holding
	seen map[container.ID]bool // by an engine that described it
	mute error                 // of the first engine that did not answer
}

// survey looks at every container and image of every engine.
func (d *doctor) survey(ctx context.Context) *survey {
	s := &survey{doctor: d, roles: map[container.ID]control.Attached{}, slots: make(chan struct{}, atOnce), seen: map[container.ID]bool{}}
	d.askAgent(ctx)
	if a := <-d.answer; a.err == nil { // without an agent nobody has a role of it
		for _, a := range a.list.Containers {
			s.roles[a.ID] = a
		}
	}
	var engines sync.WaitGroup
	for _, a := range d.engines {
		engines.Go(func() {
			if err := s.engine(ctx, a); err != nil {
				s.add(audit.Blind(audit.Holder{Kind: "engine", Engine: a.name, Name: a.name}, clean(fault.As(err).What)))
				s.fail(err)
			}
		})
	}
	engines.Wait()
	s.watched(ctx)
	s.wg.Wait()
	return s
}

// fail remembers that an engine did not answer.
func (s *survey) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute == nil {
		s.mute = err
	}
}

func (s *survey) add(h ...audit.Holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, h...)
}

// look looks at something beside others.
func (s *survey) look(f func() []audit.Holding) {
	s.slots <- struct{}{}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		s.add(f()...)
	})
}

// engine looks at what one engine has.
func (s *survey) engine(ctx context.Context, a api) error {
	e, err := a.open()
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, listLimit)
	ids, err := e.Containers(asking)
	cancel()
	if err != nil {
		return errors.Join(err, e.Close())
	}
	s.described(ids)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Add(1)
		s.look(func() []audit.Holding {
			defer wg.Done()
			return s.holder(ctx, a.name, e, id)
		})
	}
	images, err := e.Images(ctx)
	for _, i := range images {
		s.add(image(a.name, i)...)
	}
	wg.Wait()
	return errors.Join(err, e.Close())
}

// described notes that an engine vouches for these.
func (s *survey) described(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.seen[container.ID(id)] = true
	}
}

// watched looks at the containers that no engine has described, by the processes that watch over them.
func (s *survey) watched(ctx context.Context) {
	list, err := monitors.Running(ctx)
	if err != nil {
		s.add(audit.Blind(audit.Holder{Kind: "engine", Name: "monitors"}, clean(err.Error())))
	}
	told := map[string]bool{}
	for _, c := range list {
		if s.seen[c.ID] {
			continue
		}
		f := fromMonitor(c)
		if !told[f.engine] {
			told[f.engine] = true
			s.add(audit.Blind(audit.Holder{Kind: "engine", Engine: f.engine, Name: f.engine},
				"images, and containers that do not run: nobody was asked; containers were found by the processes that watch over them"))
		}
		h := audit.Holder{Kind: "container", Engine: f.engine, Name: f.Title(), ID: string(c.ID)}
		if f.namespace != "" {
			h.Name = f.namespace + "/" + h.Name
		}
		if f.uid != 0 {
			h.Engine = fmt.Sprintf("%s of user %d", f.engine, f.uid)
		}
		s.look(func() []audit.Holding { return s.running(ctx, h, c.PID) })
	}
}

// holder looks at one container.
func (s *survey) holder(ctx context.Context, engine string, e *docker.Engine, id string) []audit.Holding {
	h := audit.Holder{Kind: "container", Engine: engine, Name: container.ID(id).Short(), ID: id}
	i, err := e.Inspect(ctx, id)
	if fault.CodeOf(err) == fault.NotFound {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return []audit.Holding{audit.Blind(h, fault.As(err).What)}
	}
	h.Name = i.Title()
	if i.PID != 0 {
		return s.running(ctx, h, i.PID)
	}
	f := &diagnose.Facts{}
	facts.Recorded(i.Env, f)
	all := audit.Environment(h, f.Env, "environment that the engine wrote down; it does not run")
	inside := make([]string, 0, len(i.Mounts))
	for _, m := range i.Mounts {
		inside = append(inside, clean(m.Destination))
	}
	return append(all, audit.Mounts(h, inside)...)
}

// running looks at the process of a container.
func (s *survey) running(ctx context.Context, h audit.Holder, pid int) []audit.Holding {
	f, err := s.process(ctx, pid)
	if fault.CodeOf(err) == fault.ContainerGone {
		return nil
	}
	if err != nil {
		return []audit.Holding{audit.Blind(h, fault.As(err).What)}
	}
	if a, ok := s.roles[container.ID(h.ID)]; ok && a.PID == pid {
		f.Role.Name, f.Role.ARN = a.Role, a.RoleARN
	}
	return audit.Process(h, f)
}

func image(engine string, i docker.Image) []audit.Holding {
	h := audit.Holder{Kind: "image", Engine: engine, Name: i.Name, ID: i.ID}
	f := &diagnose.Facts{}
	facts.Recorded(i.Env, f)
	all := audit.Environment(h, f.Env, "environment of the image")
	for n, layer := range i.History {
		var keys []audit.Key
		for _, k := range facts.KeyIDs(layer) {
			keys = append(keys, audit.Key{Kind: k.Kind, Masked: k.Masked})
		}
		all = append(all, audit.Keys(h, keys, fmt.Sprintf("history, layer %d from the top", n+1))...)
	}
	return all
}

func writeAudit(out io.Writer, all []audit.Holding, q AuditQuery) error {
	switch {
	case q.SARIF:
		b, err := audit.SARIF(all, q.Version)
		if err != nil {
			return err
		}
		_, err = out.Write(append(b, '\n'))
		return err
	case q.JSON:
		if all == nil {
			all = []audit.Holding{}
		}
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Holdings []audit.Holding `json:"holdings"`
		}{all})
	case len(all) == 0:
		_, err := io.WriteString(out, "nobody on this host has an AWS identity of its own\n")
		return err
	}
	columns := []table.Column{{Title: "LEVEL"}, {Title: "ENGINE"}, {Title: "WHO"}, {Title: "RULE"}, {Title: "IDENTITY"}, {Title: "HOW"}}
	rows := make([][]table.Cell, 0, len(all))
	for _, h := range all {
		style := table.Plain
		switch h.Level {
		case audit.Error:
			style = table.Red
		case audit.Warning:
			style = table.Amber
		case audit.Note, audit.None:
		}
		rows = append(rows, []table.Cell{{Text: string(h.Level), Style: style}, {Text: h.Engine}, {Text: h.Kind + " " + h.Name}, {Text: string(h.Rule)}, {Text: h.Identity}, {Text: h.How}})
	}
	_, err := io.WriteString(out, table.Format(columns, rows, table.Options{Width: auditWidth}))
	return err
}

// auditWidth is that of a wide window: an audit is read in a file as often as on a terminal.
const auditWidth = 180
