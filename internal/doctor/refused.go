package doctor

import (
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
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

// sent is what a role's configuration sends to STS.
func sent(r config.Role) diagnose.Sent {
	return diagnose.Sent{ExternalID: r.ExternalID, Tags: len(r.Tags) > 0, Policy: r.Policy != "", Duration: r.Duration}
}
