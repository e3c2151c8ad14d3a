package diagnose

import (
	"slices"
	"strings"
)

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // it does not work, or secrets are leaking
	Warning Severity = "warning" // it works, and not as somebody thinks it does
	Note    Severity = "note"    // worth knowing
)

// Code is a stable word for one kind of finding. Codes may be added, never renamed; each has a heading in
// doc/doctor.md.
type Code string

// Finding is one thing that is wrong, and what to do about it.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`               // one sentence
	Evidence []string `json:"evidence"`           // what was seen, never empty
	Affects  []SDK    `json:"affects,omitempty"`  // empty: every SDK
	Fix      string   `json:"fix"`                // one sentence
	Commands []string `json:"commands,omitempty"` // to paste
	Paste    []Paste  `json:"paste,omitempty"`    // documents to paste
	Manual   string   `json:"manual"`
}

// Paste is a text that belongs somewhere, such as a statement into a policy.
type Paste struct {
	Where string `json:"where"`
	Text  string `json:"text"`
}

// manual is where the codes are explained.
const manual = "doc/doctor.md#"

// rule looks for one thing.
type rule struct {
	code Code
	find func(*Facts) *Finding
}

// rules are all that is looked for, the deeper causes first: among findings of one severity the first is named first.
var rules = []rule{
	// What keeps everything else from working.
	{"config-invalid", configInvalid},
	{"agent-down", agentDown},
	{"role-refused", roleRefused},
	{"sts-refused", stsRefused},
	{"sts-unreachable", stsSilent},
	{"clock-skew", clockSkew},
	{"host-identity-missing", hostIdentity},
	{"start-refused", startRefused},
	{"port-conflict", portConflict},
	{"role-not-attached", roleNotAttached},
	{"addresses-missing", addressesMissing},
	{"endpoint-foreign", endpointForeign},
	// The environment.
	{"credentials-partial", credentialsPartial},
	{"session-token-missing", sessionMissing},
	{"session-token-unexpected", sessionUnexpected},
	{"session-token-stale", sessionStale},
	{"credentials-expired", credentialsExpired},
	{"profile-missing", profileMissing},
	{"web-identity-incomplete", identityIncomplete},
	{"uri-empty", uriEmpty},
	{"uri-malformed", uriMalformed},
	{"full-uri-refused", fullRefused},
	{"token-file-newline", tokenNewline},
	{"token-file-unreadable", tokenUnreadable},
	{"proxy-takes-metadata", proxyTakes},
	{"endpoint-mode-invalid", modeInvalid},
	{"partition-mismatch", partitionMismatch},
	// The endpoints.
	{"ipv6-off", ipv6Off},
	{"container-endpoint-unreachable", containerUnreachable},
	{"container-endpoint-error", containerError},
	{"credentials-incomplete", documentIncomplete},
	{"imds-disabled", imdsDisabled},
	{"imds-throttled", imdsThrottled},
	{"imds-hop-limit", hopLimit},
	{"imds-v1-fallback", v1Fallback},
	{"imds-v2-required", v2Required},
	{"imds-off", imdsOff},
	{"imds-no-role", imdsNoRole},
	{"imds-guarded", imdsGuarded},
	{"imds-unreachable", imdsUnreachable},
	{"no-credentials", noCredentials},
	// It works, and not as somebody thinks it does.
	{"keys-shadow-role", keysShadow},
	{"file-shadows-role", fileShadows},
	{"both-uris", bothURIs},
	{"keys-long-lived", keysLongLived},
	{"keys-long-lived-in-file", fileLongLived},
	{"keys-long-lived-in-image", imageLongLived},
	{"host-role", hostRole},
	{"imds-disabled-ambiguous", disabledAmbiguous},
	{"region-missing", regionMissing},
	// The host.
	{"kernel-without-sk-lookup", oldKernel},
	{"cgroup-v1", oldCgroup},
	{"engine-unreachable", engineSilent},
}

// Codes are all codes of findings, sorted.
func Codes() []Code {
	codes := make([]Code, 0, len(rules))
	for _, r := range rules {
		codes = append(codes, r.code)
	}
	slices.Sort(codes)
	return codes
}

// Findings are what is wrong, the worst and deepest first.
func Findings(f *Facts) []Finding {
	found := []Finding{}
	for _, r := range rules {
		x := r.find(f)
		if x == nil {
			continue
		}
		x.Code, x.Manual = r.code, manual+string(r.code)
		x.Affects = narrow(f, x)
		if x.Affects == nil || len(x.Affects) > 0 {
			found = append(found, *x)
		}
	}
	found = explained(found)
	slices.SortStableFunc(found, func(a, b Finding) int { return weight(a) - weight(b) })
	return found
}

func weight(f Finding) int { return slices.Index([]Severity{Error, Warning, Note}, f.Severity) }

// narrow leaves of those affected the SDKs that are in question. Where any may be, a finding about old ones alone is
// no more than a note. nil means all.
func narrow(f *Facts, x *Finding) []SDK {
	if x.Affects == nil {
		return nil
	}
	kept := []SDK{}
	for _, s := range x.Affects {
		if len(f.SDKs) == 0 || slices.Contains(f.SDKs, s) {
			kept = append(kept, s)
		}
	}
	if len(f.SDKs) == 0 && !slices.ContainsFunc(kept, func(s SDK) bool { return !slices.Contains(legacy, s) }) {
		x.Severity = Note
	}
	return kept
}

// explained takes out what is only the consequence of something that is named already. Of an error the SDKs remain that
// the cause does not affect; what only works in another way than somebody thinks is not worth a second word.
func explained(found []Finding) []Finding {
	kept := make([]Finding, 0, len(found))
	for _, x := range found {
		covers := func(g Finding) bool {
			return slices.Contains(causes[x.Code], g.Code) || x.Code == "no-credentials" && g.Code != x.Code && (g.Severity == Error || g.Code == "imds-disabled-ambiguous")
		}
		left := x.affected()
		for _, g := range found {
			switch {
			case !covers(g):
			case x.Severity == Error || x.Severity == Note && x.Affects != nil:
				left = slices.DeleteFunc(left, func(s SDK) bool { return slices.Contains(g.affected(), s) })
			default:
				left = nil
			}
		}
		switch {
		case len(left) == 0:
			continue
		case len(left) < len(x.affected()):
			x.Affects = left
		}
		kept = append(kept, x)
	}
	return kept
}

// affected are the SDKs that a finding is about.
func (f Finding) affected() []SDK {
	if f.Affects == nil {
		return SDKs()
	}
	return slices.Clone(f.Affects)
}

// causes are the findings that a finding is the consequence of.
var causes = map[Code][]Code{
	"agent-down":                     {"config-invalid"},
	"role-not-attached":              {"port-conflict", "agent-down", "role-refused", "sts-refused", "sts-unreachable", "clock-skew", "start-refused", "host-identity-missing", "addresses-missing"},
	"addresses-missing":              {"agent-down"},
	"host-identity-missing":          {"clock-skew"},
	"start-refused":                  {"role-refused", "sts-refused", "sts-unreachable", "clock-skew", "host-identity-missing", "agent-down", "port-conflict"},
	"container-endpoint-unreachable": {"ipv6-off", "agent-down", "role-not-attached", "addresses-missing", "uri-empty", "uri-malformed", "endpoint-foreign"},
	"container-endpoint-error":       {"uri-empty", "uri-malformed", "endpoint-foreign", "role-not-attached", "sts-refused", "sts-unreachable", "host-identity-missing"},
	"credentials-incomplete":         {"endpoint-foreign", "credentials-expired"},
	"imds-unreachable": {
		"ipv6-off", "imds-guarded", "imds-disabled", "uri-empty", "uri-malformed", "agent-down", "addresses-missing", "full-uri-refused", "token-file-newline",
		"token-file-unreadable", "container-endpoint-unreachable", "container-endpoint-error", "credentials-incomplete",
		"endpoint-foreign", "credentials-partial", "profile-missing", "web-identity-incomplete", "role-not-attached",
	},
	"imds-v2-required": {"imds-hop-limit"},
	"host-role": {
		"imds-v1-fallback", "credentials-partial", "profile-missing", "role-not-attached", "web-identity-incomplete", "uri-empty", "uri-malformed", "full-uri-refused", "token-file-newline",
		"token-file-unreadable", "container-endpoint-unreachable", "container-endpoint-error", "credentials-incomplete", "endpoint-foreign",
	},
	"file-shadows-role": {"profile-missing", "session-token-missing"},
	"keys-shadow-role":  {"session-token-missing", "credentials-partial"},
	"keys-long-lived":   {"session-token-unexpected"},
}

// list names SDKs for people.
func list(sdks []SDK) string {
	names := make([]string, 0, len(sdks))
	for _, s := range sdks {
		names = append(names, s.Title())
	}
	return strings.Join(names, ", ")
}

// which are the SDKs in question for which ok holds.
func which(f *Facts, ok func(look) bool) []SDK {
	in := f.SDKs
	if len(in) == 0 {
		in = SDKs()
	}
	hit := []SDK{}
	for _, s := range in {
		if ok(f.as(s)) {
			hit = append(hit, s)
		}
	}
	return hit
}
