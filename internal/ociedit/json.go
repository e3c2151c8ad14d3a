package ociedit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The functions below walk bytes that check has found to be one valid JSON object of bounded size and depth. So they
// need no errors for broken text, and their positions never leave it.

// check is the grammar, once and for all.
func check(doc []byte) error {
	if len(doc) > MaxSize {
		return fmt.Errorf("it has %d bytes, and at most %d are allowed", len(doc), MaxSize)
	}
	if !json.Valid(doc) {
		var v json.RawMessage
		err := json.Unmarshal(doc, &v)
		return fmt.Errorf("it is not one JSON document: %w", err)
	}
	depth, most := 0, 0
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			i = stringEnd(doc, i) - 1
		case '{', '[':
			depth++
			most = max(most, depth)
		case '}', ']':
			depth--
		}
	}
	if most > maxDepth {
		return fmt.Errorf("it is nested %d deep, and at most %d are allowed", most, maxDepth)
	}
	if doc[space(doc, 0)] != '{' {
		return errors.New("it is not a JSON object")
	}
	return nil
}

// place is where a member's value stands.
type place struct {
	found      bool
	start, end int
}

func (p place) is(doc []byte, kind byte) bool { return p.found && doc[p.start] == kind }

func (p place) null(doc []byte) bool { return p.found && doc[p.start] == 'n' }

// find returns the value of the member of the object at position at. A member of that name in another case, and a
// second one, are errors: encoding/json, and with it runc, takes the last of them all, other decoders the exact one.
func find(doc []byte, at int, name string) (place, error) {
	var p place
	for i := space(doc, space(doc, at)+1); doc[i] != '}'; {
		keyEnd := stringEnd(doc, i)
		key := text(doc[i:keyEnd])
		start := space(doc, space(doc, keyEnd)+1) // behind the colon
		end := valueEnd(doc, start)
		if strings.EqualFold(key, name) { // the same folding as encoding/json's: ſ is s and the Kelvin sign is k
			if key != name {
				return p, fmt.Errorf("its member %s may be read as %q", quote(key), name)
			}
			if p.found {
				return p, fmt.Errorf("it has the member %q twice in one object", name)
			}
			p = place{found: true, start: start, end: end}
		}
		if i = space(doc, end); doc[i] == ',' {
			i = space(doc, i+1)
		}
	}
	return p, nil
}

// descend follows names from the top. All but the last must be objects, the last of the kind that begins with the
// given character; where one is absent or null, nothing is found.
func descend(doc []byte, kind byte, names ...string) (place, error) {
	p := place{found: true}
	for i, name := range names {
		var err error
		if p, err = find(doc, p.start, name); err != nil {
			return place{}, err
		}
		if !p.found || p.null(doc) {
			return place{}, nil
		}
		want := byte('{')
		if i == len(names)-1 {
			want = kind
		}
		if doc[p.start] != want {
			return place{}, fmt.Errorf("its member %s is of the wrong kind", strings.Join(names[:i+1], "."))
		}
	}
	return p, nil
}

// put sets the member of the object at position at: the value in its old place, or a new member at the end.
func put(doc []byte, at int, name string, value []byte) ([]byte, error) {
	p, err := find(doc, at, name)
	if err != nil {
		return nil, err
	}
	if p.found {
		return slices.Concat(doc[:p.start], value, doc[p.end:]), nil
	}
	at = space(doc, at)
	last := valueEnd(doc, at) - 1 // the closing brace
	member := slices.Concat([]byte(`"`+name+`":`), value)
	if space(doc, at+1) != last {
		// Behind the last value, not before the brace, so that an indented file stays indented.
		last = len(bytes.TrimRight(doc[:last], " \t\r\n"))
		member = slices.Concat([]byte(","), member)
	}
	return slices.Concat(doc[:last], member, doc[last:]), nil
}

// elements returns the raw elements of the array at position at.
func elements(doc []byte, at int) [][]byte {
	var list [][]byte
	for i := space(doc, at+1); doc[i] != ']'; {
		end := valueEnd(doc, i)
		list = append(list, doc[i:end])
		if i = space(doc, end); doc[i] == ',' {
			i = space(doc, i+1)
		}
	}
	return list
}

// space returns the first position from i on that is no white space.
func space(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\r' || doc[i] == '\n') {
		i++
	}
	return i
}

// stringEnd returns the position behind the string that begins at i.
func stringEnd(doc []byte, i int) int {
	for i++; doc[i] != '"'; i++ {
		if doc[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the position behind the value that begins at i.
func valueEnd(doc []byte, i int) int {
	switch doc[i] {
	case '"':
		return stringEnd(doc, i)
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch doc[i] {
			case '"':
				i = stringEnd(doc, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default: // number, true, false, null
		for i < len(doc) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(doc[i])) {
			i++
		}
		return i
	}
}

// text decodes a JSON string as Go does.
func text(raw []byte) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "" // it was found valid
	}
	return s
}
