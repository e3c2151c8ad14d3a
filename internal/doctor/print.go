package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"taskrole/internal/diagnose"
)

// write writes the report for people or for programs.
func write(out io.Writer, r *Report, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	title(&b, r)
	if r.unfound {
		b.WriteString("No SDK was found in the process's program and files. What each would do that may be there:\n\n")
	}
	for _, g := range groups(r) {
		chain(&b, g)
	}
	advice(&b, r.Findings, len(r.Chains))
	for _, u := range r.Unseen {
		fmt.Fprintf(&b, "➖ not seen: %s\n", u)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func title(b *strings.Builder, r *Report) {
	s := r.Subject
	if h := r.host; h != nil {
		fmt.Fprintf(b, "This host: Linux %s, cgroup %s", h.Kernel, h.Cgroup)
		if h.ConfigError == "" {
			fmt.Fprintf(b, ", %d roles in %s, guard %s", h.Roles, h.ConfigPath, h.Guard)
		}
		b.WriteString("\n\n")
		return
	}
	var words []string
	if s.Container != "" {
		words = append(words, whose(s))
	}
	if s.Image != "" {
		words = append(words, "image "+s.Image)
	}
	if s.Planned {
		words = append(words, "not started yet")
	}
	if s.PID != 0 {
		words = append(words, fmt.Sprintf("process %d (%s) of user %d", s.PID, s.Program, s.UID))
	}
	if s.Network != "" {
		words = append(words, "network "+s.Network)
	}
	if r.Role != "" {
		words = append(words, "role "+r.Role)
	}
	fmt.Fprintf(b, "%s\n\n", strings.Join(words, ", "))
}

// whose names the container and its engine.
func whose(s diagnose.Subject) string {
	words := "container " + s.Container
	if s.Engine != "" {
		words += " of " + s.Engine
	}
	if s.EngineUser != 0 {
		words += fmt.Sprintf(" of user %d", s.EngineUser)
	}
	return words
}

// group is SDKs that do the same.
type group struct {
	titles []string
	diagnose.Chain
}

func groups(r *Report) []group {
	var all []group
	for _, c := range r.Chains {
		i := slices.IndexFunc(all, func(g group) bool { return g.Source == c.Source && slices.Equal(g.Steps, c.Steps) })
		if i < 0 {
			all = append(all, group{Chain: c})
			i = len(all) - 1
		}
		all[i].titles = append(all[i].titles, r.title(c.SDK))
	}
	return all
}

// title is an SDK, with what is known of the one that was found.
func (r *Report) title(s diagnose.SDK) string {
	title := s.Title()
	for _, l := range r.Libraries {
		if l.SDK == s && l.Version != "" {
			return title + " (version " + l.Version + ", " + l.Path + ")"
		} else if l.SDK == s {
			return title + " (" + l.Path + ")"
		}
	}
	return title
}

// mark is a verdict as people see it.
func mark(v diagnose.Verdict) string {
	switch v {
	case diagnose.Wins:
		return "✅"
	case diagnose.Fails, diagnose.Stops:
		return "❌"
	case diagnose.Absent, diagnose.Beaten:
	}
	return "➖"
}

func chain(b *strings.Builder, g group) {
	fmt.Fprintf(b, "%s\n", strings.Join(g.titles, " · "))
	for _, s := range g.Steps {
		if s.Verdict == diagnose.Beaten {
			continue
		}
		fmt.Fprintf(b, "  %s %s: %s\n", mark(s.Verdict), s.Name, s.Why)
	}
	switch {
	case g.Source != diagnose.FromNowhere:
		fmt.Fprintf(b, "  → credentials from %s\n\n", strings.TrimSpace(fmt.Sprintf("%s %s", g.Source, g.Detail)))
	case len(g.titles) == 1 && g.Sees != "":
		fmt.Fprintf(b, "  → no credentials; the user reads: %s\n\n", g.Sees)
	default:
		b.WriteString("  → no credentials\n\n")
	}
}

// sign is a severity as people see it.
var sign = map[diagnose.Severity]string{diagnose.Error: "❌", diagnose.Warning: "⚠️ ", diagnose.Note: "ℹ️ "}

func advice(b *strings.Builder, found []diagnose.Finding, sdks int) {
	if len(found) == 0 {
		b.WriteString("✅ nothing is wrong\n")
		return
	}
	b.WriteString("What to do\n")
	for i, f := range found {
		fmt.Fprintf(b, "%d. %s %s [%s]\n", i+1, sign[f.Severity], f.What, f.Code)
		if len(f.Affects) > 0 && len(f.Affects) < sdks {
			fmt.Fprintf(b, "     only: %s\n", titles(f.Affects))
		}
		for _, e := range f.Evidence {
			if word, rest, _ := strings.Cut(e, ": "); word == possible {
				fmt.Fprintf(b, "     %s: %s\n", word, rest)
				continue
			}
			fmt.Fprintf(b, "     seen: %s\n", e)
		}
		b.WriteString(advise(f, "     "))
	}
}

// possible begins what AWS does not tell apart, and nobody has seen.
const possible = "possible"

// titles are the names of SDKs in full.
func titles(sdks []diagnose.SDK) string {
	names := make([]string, 0, len(sdks))
	for _, s := range sdks {
		names = append(names, s.Title())
	}
	return strings.Join(names, " · ")
}

// advise is what to do about a finding, each line after an indent.
func advise(f diagnose.Finding, indent string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sdo: %s:\n", indent, f.Fix)
	for _, c := range f.Commands {
		fmt.Fprintf(&b, "%s  $ %s\n", indent, c)
	}
	for _, p := range f.Paste {
		fmt.Fprintf(&b, "%s%s:\n", indent, p.Where)
		for line := range strings.Lines(p.Text) {
			fmt.Fprintf(&b, "%s  %s\n", indent, strings.TrimSuffix(line, "\n"))
		}
	}
	fmt.Fprintf(&b, "%smore: %s\n", indent, f.Manual)
	return b.String()
}
