package doctor

import (
	"context"

	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
	"taskrole/internal/engine/docker"
	"taskrole/internal/facts"
	"taskrole/internal/fault"
)

// refusedIndent is that of a role's lines in "taskrole roles --check".
const refusedIndent = "        "

// Refused says what to do about a role that AWS refuses in these words, as a finding and as text. The finding is nil if
// nothing is known beyond the words.
func Refused(configPath string, r control.Role, said string) (finding any, text string) {
	role := diagnose.Role{Name: r.Name, ARN: r.ARN}
	if cfg, err := config.Load(configPath); err == nil { // else the agent has one that it could read
		if c, err := cfg.Role(r.Name); err == nil {
			role.Sent = sent(c)
		}
	}
	x := diagnose.RefusedBySTS(said, role)
	if x == nil {
		return nil, ""
	}
	for _, e := range x.Evidence[1:] { // the first is what was said
		text += refusedIndent + e + "\n"
	}
	return x, refusedIndent + x.What + "\n" + text + advise(*x, refusedIndent)
}

// history looks for keys in the commands that the image's layers were made by.
func (d *doctor) history(ctx context.Context, f *diagnose.Facts, e *docker.Engine, image string) {
	layers, err := e.History(ctx, image)
	if err != nil {
		d.unseen = append(d.unseen, "the history of the image: "+fault.As(err).What)
	}
	for n, layer := range layers {
		for _, k := range facts.KeyIDs(layer) {
			f.ImageKeys = append(f.ImageKeys, diagnose.ImageKey{Layer: n + 1, Kind: k.Kind, Masked: k.Masked})
		}
	}
}

// images looks at the history of a container's image, if an engine with an API has it.
func (d *doctor) images(ctx context.Context, f *diagnose.Facts, c found) {
	for _, a := range d.engines {
		if a.name != c.engine || c.ImageID == "" || !c.Known {
			continue
		}
		if e, err := a.open(); err == nil {
			d.history(ctx, f, e, c.ImageID)
			_ = e.Close() // connections for asking only
		}
		return
	}
}

// sent is what a role's configuration sends to STS.
func sent(r config.Role) diagnose.Sent {
	return diagnose.Sent{ExternalID: r.ExternalID, Tags: len(r.Tags) > 0, Policy: r.Policy != "", Duration: r.Duration}
}
