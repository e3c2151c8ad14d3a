// Package grant is one request for credentials: everything that changes what STS answers, and nothing else.
//
// It is apart from the broker, which caches by it, and from the door to STS, which sends it, so that neither knows
// the other.
package grant

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"taskrole/internal/arn"
)

// Grant asks for one session of one role.
type Grant struct {
	Role       arn.Role
	Session    string            // role session name, valid as arn.CheckSessionName says
	Duration   time.Duration     // 15 min to 12 h; STS allows at most 1 h when the agent's own identity is a role
	ExternalID string            // or empty
	Policy     string            // session policy, JSON, or empty
	Tags       map[string]string // session tags, or nil
	Region     string            // of the STS endpoint
}

// Key is equal for two grants exactly if STS would see the same request. It holds no secret.
func (g Grant) Key() string {
	var b strings.Builder
	for _, s := range []string{g.Role.String(), g.Session, g.Duration.String(), g.ExternalID, g.Policy, g.Region} {
		fmt.Fprintf(&b, "%d:%s,", len(s), s) // lengths first: no two lists of fields run together
	}
	for _, k := range slices.Sorted(maps.Keys(g.Tags)) {
		fmt.Fprintf(&b, "%d:%s=%d:%s,", len(k), k, len(g.Tags[k]), g.Tags[k])
	}
	return b.String()
}
