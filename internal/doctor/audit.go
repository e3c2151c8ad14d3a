package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"taskrole/internal/audit"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
	"taskrole/internal/engine/docker"
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

// atOnce is how many containers are looked at at a time.
const atOnce = 8

// Audit lists who has which AWS identity on this host. The error is a fault: doctor-findings if a key that never
// expires was found.
func Audit(ctx context.Context, q AuditQuery, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	d := &doctor{query: Query{ConfigPath: q.ConfigPath}}
	d.settings()
	if d.engine == "" {
		return fault.New(fault.EngineUnreachable, "the configuration names no engine", "name engines.docker in it")
	}
	e, err := docker.New(d.engine)
	if err != nil {
		return fault.Wrap(err, fault.EngineUnreachable, "the engine's address cannot be used", "correct engines.docker in the configuration")
	}
	defer func() { _ = e.Close() }() // connections for asking only
	all, err := d.holdings(ctx, e)
	if err != nil {
		return err
	}
	if err := writeAudit(out, all, q); err != nil {
		return fault.As(fmt.Errorf("write the audit: %w", err))
	}
	switch n := audit.Failing(all); n {
	case 0:
		return nil
	case 1:
		return fault.New(fault.DoctorFindings, "1 long-lived key is on this host", "delete it in IAM and use a role; doc/audit.md")
	default:
		return fault.New(fault.DoctorFindings, fmt.Sprintf("long-lived keys are at %d places on this host", n), "delete them in IAM and use roles; doc/audit.md")
	}
}

// holdings looks at every container and image.
func (d *doctor) holdings(ctx context.Context, e *docker.Engine) ([]audit.Holding, error) {
	ids, err := e.Containers(ctx)
	if err != nil {
		return nil, err
	}
	images, err := e.Images(ctx)
	if err != nil {
		return nil, fault.As(err)
	}
	roles := map[container.ID]control.Attached{}
	if list, err := control.List(ctx, d.socket); err == nil { // without an agent nobody has a role of it
		for _, a := range list.Containers {
			roles[a.ID] = a
		}
	}
	var mu sync.Mutex // guards all
	var all []audit.Holding
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found := d.holder(ctx, e, id, roles)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
		})
	}
	wg.Wait()
	for _, i := range images {
		all = append(all, image(i)...)
	}
	return audit.Sort(all), nil
}

// holder looks at one container.
func (d *doctor) holder(ctx context.Context, e *docker.Engine, id string, roles map[container.ID]control.Attached) []audit.Holding {
	h := audit.Holder{Kind: "container", Name: container.ID(id).Short(), ID: id}
	i, err := e.Inspect(ctx, id)
	if fault.CodeOf(err) == fault.NotFound {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return []audit.Holding{audit.Blind(h, fault.As(err).What)}
	}
	h.Name = i.Title()
	if i.PID == 0 {
		f := &diagnose.Facts{}
		facts.Recorded(i.Env, f)
		all := audit.Environment(h, f.Env, "environment that the engine wrote down; it does not run")
		inside := make([]string, 0, len(i.Mounts))
		for _, m := range i.Mounts {
			inside = append(inside, m.Destination)
		}
		return append(all, audit.Mounts(h, inside)...)
	}
	f, _, err := d.process(ctx, i.PID)
	if err != nil {
		return []audit.Holding{audit.Blind(h, fault.As(err).What)}
	}
	f.Role.Name, f.Role.ARN = roles[i.ID].Role, roles[i.ID].RoleARN
	return audit.Process(h, f)
}

func image(i docker.Image) []audit.Holding {
	h := audit.Holder{Kind: "image", Name: i.Name, ID: i.ID}
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
	columns := []table.Column{{Title: "LEVEL"}, {Title: "WHO"}, {Title: "RULE"}, {Title: "IDENTITY"}, {Title: "HOW"}}
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
		rows = append(rows, []table.Cell{{Text: string(h.Level), Style: style}, {Text: h.Kind + " " + h.Name}, {Text: string(h.Rule)}, {Text: h.Identity}, {Text: h.How}})
	}
	_, err := io.WriteString(out, table.Format(columns, rows, table.Options{Width: auditWidth}))
	return err
}

// auditWidth is that of a wide window: an audit is read in a file as often as on a terminal.
const auditWidth = 180
