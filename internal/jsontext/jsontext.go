// Package jsontext finds and changes members of a JSON document in its text, for files that belong to somebody else:
// what is not changed keeps its bytes, its order, its white space and numbers of any length.
//
// It is for editors of config.json and daemon.json, which have only this in common. It refuses documents that two
// readers could read differently: a member that is there twice, or in another case than the one asked for.
package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The functions below walk bytes that Check has found to be one valid JSON object of bounded size and depth. So they
// need no errors for broken text, and their positions never leave it.

// maxDepth bounds nesting: the runtime-spec needs 8.
const maxDepth = 64

// Check is the grammar, once and for all: one object of at most maxSize bytes.
func Check(doc []byte, maxSize int) error {
	if len(doc) > maxSize {
		return fmt.Errorf("it has %d bytes, and at most %d are allowed", len(doc), maxSize)
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

// Place is where a member's value stands.
type Place struct {
	Found      bool
	Start, End int
}

// Is says whether the value is there and begins with the character, which tells its kind.
func (p Place) Is(doc []byte, kind byte) bool { return p.Found && doc[p.Start] == kind }

func (p Place) null(doc []byte) bool { return p.Found && doc[p.Start] == 'n' }

// Find returns the value of the member of the object at position at. A member of that name in another case, and a
// second one, are errors: encoding/json, and with it runc, takes the last of them all, other decoders the exact one.
func Find(doc []byte, at int, name string) (Place, error) {
	var p Place
	for i := space(doc, space(doc, at)+1); doc[i] != '}'; {
		keyEnd := stringEnd(doc, i)
		key := Text(doc[i:keyEnd])
		start := space(doc, space(doc, keyEnd)+1) // behind the colon
		end := valueEnd(doc, start)
		if strings.EqualFold(key, name) { // the same folding as encoding/json's: ſ is s and the Kelvin sign is k
			if key != name {
				return p, fmt.Errorf("its member %s may be read as %q", Quote(key), name)
			}
			if p.Found {
				return p, fmt.Errorf("it has the member %q twice in one object", name)
			}
			p = Place{Found: true, Start: start, End: end}
		}
		if i = space(doc, end); doc[i] == ',' {
			i = space(doc, i+1)
		}
	}
	return p, nil
}

// Descend follows names from the top. All but the last must be objects, the last of the kind that begins with the
// given character; where one is absent or null, nothing is found.
func Descend(doc []byte, kind byte, names ...string) (Place, error) {
	p := Place{Found: true}
	for i, name := range names {
		var err error
		if p, err = Find(doc, p.Start, name); err != nil {
			return Place{}, err
		}
		if !p.Found || p.null(doc) {
			return Place{}, nil
		}
		want := byte('{')
		if i == len(names)-1 {
			want = kind
		}
		if doc[p.Start] != want {
			return Place{}, fmt.Errorf("its member %s is of the wrong kind", strings.Join(names[:i+1], "."))
		}
	}
	return p, nil
}

// Put sets the member of the object at position at: the value in its old place, or a new member at the end.
func Put(doc []byte, at int, name string, value []byte) ([]byte, error) {
	p, err := Find(doc, at, name)
	if err != nil {
		return nil, err
	}
	if p.Found {
		return slices.Concat(doc[:p.Start], value, doc[p.End:]), nil
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

// member is where one member of an object stands.
type member struct {
	name        string
	key, keyEnd int // the name
	start, end  int // the value
}

// members lists those of the object at position at.
func members(doc []byte, at int) []member {
	var list []member
	for i := space(doc, space(doc, at)+1); doc[i] != '}'; {
		m := member{key: i, keyEnd: stringEnd(doc, i)}
		m.name = Text(doc[i:m.keyEnd])
		m.start = space(doc, space(doc, m.keyEnd)+1)
		m.end = valueEnd(doc, m.start)
		list = append(list, m)
		if i = space(doc, m.end); doc[i] == ',' {
			i = space(doc, i+1)
		}
	}
	return list
}

// Add puts a new member at the end of the object at position at, with the white space that its neighbours have. The
// object must not have it. Remove undoes it to the byte.
func Add(doc []byte, at int, name string, value []byte) []byte {
	at = space(doc, at)
	list := members(doc, at)
	key, err := json.Marshal(name)
	if err != nil {
		return doc // a string can always be written
	}
	if len(list) == 0 {
		return slices.Concat(doc[:at+1], key, []byte(": "), value, doc[at+1:])
	}
	last := list[len(list)-1]
	before := at + 1 // where the white space before the last member begins
	if len(list) > 1 {
		before = space(doc, list[len(list)-2].end) + 1
	}
	return slices.Concat(doc[:last.end], []byte(","), doc[before:last.key], key, doc[last.keyEnd:last.start], value, doc[last.end:])
}

// Remove takes the member out of the object at position at, with one comma. Where there is none nothing changes.
func Remove(doc []byte, at int, name string) []byte {
	list := members(doc, at)
	i := slices.IndexFunc(list, func(m member) bool { return m.name == name })
	switch {
	case i < 0:
		return doc
	case i > 0:
		return slices.Concat(doc[:list[i-1].end], doc[list[i].end:])
	case len(list) > 1:
		return slices.Concat(doc[:list[0].key], doc[list[1].key:])
	default:
		return slices.Concat(doc[:list[0].key], doc[list[0].end:])
	}
}

// Elements returns the raw elements of the array at position at.
func Elements(doc []byte, at int) [][]byte {
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

// Text decodes a JSON string as Go does.
func Text(raw []byte) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "" // it was found valid
	}
	return s
}

// Quote shows text of others without letting it fill the line.
func Quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
