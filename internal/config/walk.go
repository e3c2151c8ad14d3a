package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// walker collects what is wrong while it goes through the document. Its methods return the zero value for what they
// reported, and go on.
type walker struct {
	file     string
	problems Problems
}

func (w *walker) add(n *yaml.Node, path, what, allowed string) {
	w.problems = append(w.problems, Problem{File: w.file, Line: n.Line, Col: n.Column, Path: path, What: what, Allowed: allowed})
}

// plain refuses what makes a document say less, or more, than a reader sees: anchors, aliases and tags.
func (w *walker) plain(n *yaml.Node, path string) {
	switch {
	case n.Kind == yaml.AliasNode:
		w.add(n, path, "*"+n.Value+" stands for something written elsewhere", "the thing itself: no anchors and aliases")
	case n.Anchor != "":
		w.add(n, path, "there is an anchor &"+n.Anchor, "no anchors and aliases")
	case n.Style&yaml.TaggedStyle != 0:
		w.add(n, path, "there is a tag "+quote(n.Tag), "no tags; text in quotes is text")
	}
	for i, c := range n.Content {
		below := path
		if n.Kind == yaml.MappingNode && i%2 == 1 {
			below = join(path, n.Content[i-1].Value)
		}
		w.plain(c, below)
	}
}

// field is one key that a mapping may have.
type field struct {
	key string
	set func(n *yaml.Node, path string)
}

// mapping goes through a mapping of known keys and returns those that were there, by where they are.
func (w *walker) mapping(n *yaml.Node, path string, fields []field) map[string]*yaml.Node {
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	return w.entries(n, path, "a mapping of "+strings.Join(keys, ", "), func(key, value *yaml.Node, path string) {
		i := slices.Index(keys, key.Value)
		if i < 0 {
			what := "there is no key " + quote(key.Value)
			if near := nearest(key.Value, keys); len(near) > 0 {
				what += ", did you mean " + near[0] + "?"
			}
			w.add(key, path, what, strings.Join(keys, ", "))
			return
		}
		fields[i].set(value, path)
	})
}

// entries calls each for every entry of a mapping whose key is text and whose value is there, and returns the keys.
// Of a doubled key every value is looked at, so that the problems in all of them are reported.
func (w *walker) entries(n *yaml.Node, path, allowed string, each func(key, value *yaml.Node, path string)) map[string]*yaml.Node {
	seen := map[string]*yaml.Node{}
	if !w.is(n, path, yaml.MappingNode, allowed) {
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			continue // reported
		}
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			w.add(key, path, "a key is "+kind(key)+" and not text", "text, in quotes if it looks like something else")
			continue
		}
		below := join(path, key.Value)
		if first, twice := seen[key.Value]; twice {
			w.add(key, below, fmt.Sprintf("the key is given twice, first in line %d", first.Line), "each key once")
		} else {
			seen[key.Value] = key
		}
		if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null" {
			w.add(key, below, "nothing is given", "a value, or leave the key out")
			continue
		}
		each(key, value, below)
	}
	return seen
}

// list calls each for every element.
func (w *walker) list(n *yaml.Node, path, allowed string, each func(n *yaml.Node, path string)) {
	if !w.is(n, path, yaml.SequenceNode, allowed) {
		return
	}
	if len(n.Content) == 0 {
		w.add(n, path, "the list is empty", allowed)
	}
	for i, c := range n.Content {
		each(c, fmt.Sprintf("%s[%d]", path, i))
	}
}

// is checks the kind of a node.
func (w *walker) is(n *yaml.Node, path string, want yaml.Kind, allowed string) bool {
	if n.Kind == want {
		return true
	}
	if n.Kind != yaml.AliasNode { // else reported
		w.add(n, path, "this is "+kind(n), allowed)
	}
	return false
}

// text reads a scalar that is text. What YAML takes for a number, a date or a truth value is refused and not turned
// back into text: 1.10 would be 1.1 to the next program that reads the file.
func (w *walker) text(n *yaml.Node, path, allowed string) (string, bool) {
	if !w.is(n, path, yaml.ScalarNode, allowed) {
		return "", false
	}
	if n.ShortTag() != "!!str" {
		w.add(n, path, quote(n.Value)+" is "+kind(n)+" to YAML: put it in quotes if it is meant as text", allowed)
		return "", false
	}
	return n.Value, true
}

// value reads a scalar that is text and means something.
func value[T any](w *walker, n *yaml.Node, path, allowed string, parse func(string) (T, error)) (v T) {
	s, ok := w.text(n, path, allowed)
	if !ok {
		return v
	}
	return parsed(w, n, path, allowed, s, parse)
}

func parsed[T any](w *walker, n *yaml.Node, path, allowed, s string, parse func(string) (T, error)) T {
	v, err := parse(s)
	if err != nil {
		w.add(n, path, err.Error(), allowed)
		var none T
		return none
	}
	return v
}

// kind says in a word what a node is.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	switch n.ShortTag() {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	case "!!merge":
		return "a merge key"
	default:
		return "something else"
	}
}

var plainKeyRE = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// join adds a key to a path. A key that a reader could misread is quoted and cut.
func join(path, key string) string {
	const most = 60
	if !plainKeyRE.MatchString(key) || len(key) > most {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
