package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"taskrole/internal/policy"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "a/b:c", true},
		{"?", "", false},
		{"?", "é", true},
		{"??", "é", false},
		{"a*c", "abcbc", true},
		{"a*c", "abcb", false},
		{"*a*", "bab", true},
		{"*ab", "aab", true},
		{"a**?", "a", false},
		{"[a]", "a", false},
		{`\*`, "*", false},
		{"A", "a", false},
		{"a", "a\x00", false},
		{"*", strings.Repeat("a", 4096), true},
		{"*", strings.Repeat("a", 4097), false},
	} {
		if got := policy.Match(c.pattern, c.s); got != c.want {
			t.Errorf("Match(%q, %.20q) = %v, want %v", c.pattern, c.s, got, c.want)
		}
	}
}

// An exponential matcher needs longer than the age of the universe for this one.
func TestMatchOfManyStarsEnds(t *testing.T) {
	pattern := strings.Repeat("a*", 127) + "ab"
	if policy.Match(pattern, strings.Repeat("a", 4096)) {
		t.Error("Match = true, want false")
	}
}

func BenchmarkMatchWorst(b *testing.B) {
	pattern, s := "*"+strings.Repeat("a", 254)+"b", strings.Repeat("a", 4096)
	for b.Loop() {
		policy.Match(pattern, s)
	}
}

// FuzzMatch holds the matcher against the regular expression of the same meaning.
func FuzzMatch(f *testing.F) {
	for _, p := range []string{"", "*", "a*b?c", "?*?", "**a", ".+", "é?"} {
		f.Add(p, "axbyc")
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 40 || len(s) > 200 || !utf8.ValidString(pattern) || !utf8.ValidString(s) {
			return
		}
		re := regexp.QuoteMeta(pattern)
		re = strings.ReplaceAll(strings.ReplaceAll(re, `\*`, `.*`), `\?`, `.`)
		if want := regexp.MustCompile(`(?s)\A` + re + `\z`).MatchString(s); policy.Match(pattern, s) != want {
			t.Fatalf("Match(%q, %q) = %v, want %v", pattern, s, !want, want)
		}
	})
}
