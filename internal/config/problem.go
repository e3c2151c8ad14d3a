package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with the file.
type Problem struct {
	File      string
	Line, Col int    // from 1; 0 where the problem has no place in the file
	Path      string // keys down to it, as in roles.s3-reader.arn; "" for the whole file
	What      string // without a final stop
	Allowed   string // what may stand there, or ""
}

// String is FILE:LINE:COL: PATH: WHAT; allowed: ALLOWED.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d:%d", p.Line, p.Col)
	}
	if p.Path != "" {
		s += ": " + p.Path
	}
	s += ": " + p.What
	if p.Allowed != "" {
		s += "; allowed: " + p.Allowed
	}
	return s
}

// Problems is every problem of a file, in the file's order.
type Problems []Problem //nolint:errname // it is a list that is also an error, and reads as one

// maxShown keeps the message readable when the wrong file was given.
const maxShown = 100

// Error is one problem a line.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i == maxShown {
			fmt.Fprintf(&b, "\n%s: and %d more problems", p.File, len(ps)-maxShown)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return ps
}

// quote shows what the file says without letting it fill the line.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
