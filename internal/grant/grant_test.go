package grant_test

import (
	"testing"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/grant"
)

func TestKeyChangesWithEveryField(t *testing.T) {
	role, err := arn.ParseRole("arn:aws:iam::123456789012:role/app")
	if err != nil {
		t.Fatal(err)
	}
	base := grant.Grant{Role: role, Session: "s1", Duration: time.Hour, Region: "eu-west-1", Tags: map[string]string{"a": "b"}}
	seen := map[string]string{base.Key(): "base"}
	for name, change := range map[string]func(*grant.Grant){
		"role":     func(g *grant.Grant) { g.Role.Name = "other" },
		"session":  func(g *grant.Grant) { g.Session = "s2" },
		"duration": func(g *grant.Grant) { g.Duration = time.Minute },
		"external": func(g *grant.Grant) { g.ExternalID = "x" },
		"policy":   func(g *grant.Grant) { g.Policy = "x" },
		"region":   func(g *grant.Grant) { g.Region = "us-east-1" },
		"tag":      func(g *grant.Grant) { g.Tags = map[string]string{"a": "c"} },
		"tag key":  func(g *grant.Grant) { g.Tags = map[string]string{"ab": ""} },
		"no tags":  func(g *grant.Grant) { g.Tags = nil },
	} {
		g := base
		change(&g)
		if other, ok := seen[g.Key()]; ok {
			t.Errorf("a grant with another %s has the key of %s", name, other)
		}
		seen[g.Key()] = name
	}
	same := base
	same.Tags = map[string]string{"a": "b"}
	if same.Key() != base.Key() {
		t.Error("equal grants have different keys")
	}
}
