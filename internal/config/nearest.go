package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"taskrole/internal/fault"
)

// Role returns the role of that name, or a fault role-unknown that offers the nearest names.
func (c *Config) Role(name string) (Role, error) {
	names := make([]string, len(c.Roles))
	for i, r := range c.Roles {
		if r.Name == name {
			return r, nil
		}
		names[i] = r.Name
	}
	hint := "the roles are " + some(names)
	if near := nearest(name, names); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return Role{}, fault.New(fault.RoleUnknown, fmt.Sprintf("no role is called %s in %s", quote(name), c.Path), hint)
}

// nearest returns at most three names that a typing mistake could have made into name, the nearest first.
func nearest(name string, names []string) []string {
	const (
		most   = 3
		longer = 128 // than any name: not worth the comparison
	)
	if len(name) > longer {
		return nil
	}
	type candidate struct {
		name string
		far  int
	}
	var all []candidate
	for _, n := range names {
		if d := distance(name, n); d <= 1+min(len(name), len(n))/4 {
			all = append(all, candidate{n, d})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(a.far-b.far, cmp.Compare(a.name, b.name)) })
	var near []string
	for _, c := range all[:min(len(all), most)] {
		near = append(near, c.name)
	}
	return near
}

// distance counts the bytes to put in, take out, change or swap with their neighbour to make a out of b.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// some lists names, not more than fit a message.
func some(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
