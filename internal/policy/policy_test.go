package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"taskrole/internal/container"
	"taskrole/internal/policy"
)

var web = container.Container{
	ID: "3f2a91", Name: "web-1", Image: "nginx:1.27", Known: true, Engine: "docker",
	Labels: map[string]string{"team": "shop", "empty": ""},
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		rule policy.Rule
		want string
	}{
		"any":                   {policy.Rule{Any: true}, "rule 1: match: any container"},
		"nothing_asked":         {policy.Rule{}, "rule 1: no match: the rule asks for nothing, so it matches nothing"},
		"name":                  {policy.Rule{Name: "web-?"}, `rule 1: match: name "web-1" is like "web-?"`},
		"other_name":            {policy.Rule{Name: "db-*"}, `rule 1: no match: name "web-1" is not like "db-*"`},
		"name_is_whole":         {policy.Rule{Name: "web"}, `rule 1: no match: name "web-1" is not like "web"`},
		"image":                 {policy.Rule{Image: "nginx"}, `rule 1: match: image "nginx:1.27" is like "nginx"`},
		"label":                 {policy.Rule{Labels: map[string]string{"team": "*"}}, `rule 1: match: label "team" "shop" is like "*"`},
		"empty_label":           {policy.Rule{Labels: map[string]string{"empty": ""}}, `rule 1: match: label "empty" "" is like ""`},
		"absent_label":          {policy.Rule{Labels: map[string]string{"tier": "*"}}, `rule 1: no match: there is no label "tier"`},
		"all_parts_must_match":  {policy.Rule{Name: "web-1", Image: "httpd"}, `rule 1: no match: image "nginx:1.27" is not like "httpd"`},
		"any_does_not_override": {policy.Rule{Any: true, Name: "db"}, `rule 1: no match: name "web-1" is not like "db"`},
		"all_parts": {
			policy.Rule{Name: "web-*", Image: "nginx:1.*", Labels: map[string]string{"team": "shop"}},
			`rule 1: match: name "web-1" is like "web-*", image "nginx:1.27" is like "nginx:1.*", label "team" "shop" is like "shop"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := policy.Decide([]policy.Rule{c.rule}, web)
			want := policy.Decision{Allowed: strings.HasPrefix(c.want, "rule 1: match"), Trace: []string{c.want}}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("Decide (-want +got):\n%s", d)
			}
		})
	}
}

func TestDecideTracesEveryRule(t *testing.T) {
	got := policy.Decide([]policy.Rule{{Name: "db"}, {Image: "nginx"}, {Any: true}}, web)
	if !got.Allowed || len(got.Trace) != 3 {
		t.Errorf("Decide = %v, want allowed with three lines", got)
	}
}

func TestDecideWithoutRulesDenies(t *testing.T) {
	if got := policy.Decide(nil, web); got.Allowed || len(got.Trace) != 1 {
		t.Errorf("Decide = %v, want denied with a reason", got)
	}
}

func TestUnknownFactsMatchNoPattern(t *testing.T) {
	stranger := web
	stranger.Known = false // what it says of itself is there, but no engine vouches for it
	for _, r := range []policy.Rule{{Name: "*"}, {Image: "*"}, {Labels: map[string]string{"team": "*"}}, {Any: true, Name: "*"}} {
		if got := policy.Decide([]policy.Rule{r}, stranger); got.Allowed {
			t.Errorf("Decide(%v) allowed a container that nobody vouches for: %v", r, got.Trace)
		}
		empty := container.Container{ID: "x", Known: true}
		if got := policy.Decide([]policy.Rule{r}, empty); got.Allowed {
			t.Errorf("Decide(%v) allowed a container without that fact: %v", r, got.Trace)
		}
	}
	if got := policy.Decide([]policy.Rule{{Any: true}}, stranger); !got.Allowed {
		t.Errorf("Decide(any) = %v, want allowed", got)
	}
}

func TestTraceStaysShort(t *testing.T) {
	c := web
	c.Name = strings.Repeat("\x00", 1<<20)
	c.Labels = map[string]string{"team": strings.Repeat("s", 4000)}
	d := policy.Decide([]policy.Rule{{Name: "*"}, {Labels: map[string]string{"team": "*"}}, {Labels: map[string]string{"team": "x"}}}, c)
	for i, allowed := range []string{"no match", "match", "no match"} {
		if !strings.HasPrefix(d.Trace[i][len("rule 1: "):], allowed+":") || len(d.Trace[i]) > 500 {
			t.Errorf("trace %d = %.500q, want %q and not longer than 500", i, d.Trace[i], allowed)
		}
	}
}

func TestImagePatterns(t *testing.T) {
	id := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		pattern, image string
		want           bool
	}{
		{"nginx", "nginx", true},
		{"nginx", "nginx:1.27", true},
		{"nginx", "nginx@" + id, true},
		{"nginx", "nginx:1.27@" + id, true},
		{"nginx:latest", "nginx", true},
		{"nginx:1.*", "nginx:1.27", true},
		{"nginx:1.*", "nginx", false},
		{"nginx", "nginx-of-a-stranger", false},
		{"nginx", "stranger/nginx", false},
		{"nginx", "localhost:5000/nginx", false},
		{"localhost:5000/nginx", "localhost:5000/nginx:1", true},
		{"localhost", "localhost:5000/nginx", false},
		{"amazon/*", "amazon/aws-cli:2", true},
		{"amazon/*", "amazonas/x", false},
		{"nginx@" + id, "nginx@" + id, true},
		{"nginx@" + id, "nginx", false},
		{"nginx:1", "nginx:1@" + id, false}, // a pin of which we cannot know that it is that tag
		{id, id, true},
		{"sha256", id, false},
		{"sha256:*", id, true},
		{"*", id, true},
	} {
		r := []policy.Rule{{Image: c.pattern}}
		got := policy.Decide(r, container.Container{ID: "x", Image: c.image, Known: true})
		if got.Allowed != c.want {
			t.Errorf("pattern %q, image %q: %v, want %v", c.pattern, c.image, got, c.want)
		}
	}
}

func ruleGen() *rapid.Generator[policy.Rule] {
	word := rapid.StringMatching(`[ab*?:/]{0,4}`)
	return rapid.Custom(func(t *rapid.T) policy.Rule {
		return policy.Rule{
			Any:    rapid.Bool().Draw(t, "any"),
			Name:   word.Draw(t, "name"),
			Image:  word.Draw(t, "image"),
			Labels: rapid.MapOfN(rapid.SampledFrom([]string{"k", "l"}), word, 0, 2).Draw(t, "labels"),
		}
	})
}

func containerGen() *rapid.Generator[container.Container] {
	word := rapid.StringMatching(`[ab:/]{0,4}`)
	return rapid.Custom(func(t *rapid.T) container.Container {
		return container.Container{
			ID:     "x",
			Known:  rapid.Bool().Draw(t, "known"),
			Name:   word.Draw(t, "name"),
			Image:  word.Draw(t, "image"),
			Labels: rapid.MapOfN(rapid.SampledFrom([]string{"k", "l"}), word, 0, 2).Draw(t, "labels"),
		}
	})
}

func TestAddingARuleNeverDenies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules, c := rapid.SliceOfN(ruleGen(), 0, 4).Draw(t, "rules"), containerGen().Draw(t, "container")
		more := slices.Insert(slices.Clone(rules), rapid.IntRange(0, len(rules)).Draw(t, "at"), ruleGen().Draw(t, "new"))
		if before, after := policy.Decide(rules, c), policy.Decide(more, c); before.Allowed && !after.Allowed {
			t.Fatalf("Decide allowed with %v and denied with %v", rules, more)
		}
	})
}

func TestOrderOfRulesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules, c := rapid.SliceOfN(ruleGen(), 0, 4).Draw(t, "rules"), containerGen().Draw(t, "container")
		if a, b := policy.Decide(rules, c), policy.Decide(rapid.Permutation(rules).Draw(t, "shuffled"), c); a.Allowed != b.Allowed {
			t.Fatalf("Decide = %v, and %v in another order", a, b)
		}
	})
}

func TestOnlyAnyAllowsTheUnknown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules, c := rapid.SliceOfN(ruleGen(), 0, 4).Draw(t, "rules"), containerGen().Draw(t, "container")
		c.Known = false
		plainAny := slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.Any && !r.NeedsEngine() })
		if d := policy.Decide(rules, c); d.Allowed != plainAny {
			t.Fatalf("Decide = %v for a container nobody vouches for, want allowed %v", d, plainAny)
		}
	})
}

func TestTakingAFactAwayNeverAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, c := ruleGen().Draw(t, "rule"), containerGen().Draw(t, "container")
		poorer := c
		poorer.Known = false
		if !policy.Decide([]policy.Rule{r}, c).Allowed && policy.Decide([]policy.Rule{r}, poorer).Allowed {
			t.Fatalf("knowing less of %v allowed it", c)
		}
	})
}

func TestRuleInWords(t *testing.T) {
	for want, r := range map[string]policy.Rule{
		"any container": {Any: true},
		"nothing":       {},
		`name "web-*", image "nginx", label team="shop", label tier="*"`: {
			Name: "web-*", Image: "nginx", Labels: map[string]string{"tier": "*", "team": "shop"},
		},
	} {
		if got := r.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}
