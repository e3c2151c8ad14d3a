// Package table lays out rows of text for a window of some width, or for a program.
//
// It is pure. Cells may come from strangers (names of containers and images, user agents), so it refuses to pass on
// control characters, and a cell cannot begin a row or a column of its own. What does not fit is left out by columns,
// the least important first, then cut: a row is always one line.
package table

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Column is one column. A title is in capitals by convention.
type Column struct {
	Title string
	// Rank says what is left out first where the window is narrow: the highest. Columns of rank 0 stay.
	Rank int
}

// Cell is a text and how it is shown, or just a text.
type Cell struct {
	Text  string
	Style Style
}

// Style is how a cell is shown on a terminal with colours.
type Style string

// The styles: SGR parameters of ECMA-48.
const (
	Plain Style = ""
	Bold  Style = "1"
	Faint Style = "2"
	Red   Style = "31"
	Green Style = "32"
	Amber Style = "33"
)

// Options say for whom a table is.
type Options struct {
	Width  int // of the window; 0 is a program: columns are separated by one tab each, and nothing is left out
	Colour bool
}

// gap is between two columns.
const gap = "  "

// narrowest is to what a cell may be cut.
const narrowest = 6

// Format returns the table with its titles, one line a row. Rows shorter than columns are filled up.
func Format(columns []Column, rows [][]Cell, o Options) string {
	t := newText(columns, rows)
	if o.Width <= 0 {
		return t.tabs()
	}
	t.fit(o.Width)
	return t.draw(o.Colour)
}

// text is a table whose cells are harmless.
type text struct {
	columns []Column
	rows    [][]Cell // the titles first
	widths  []int
}

func newText(columns []Column, rows [][]Cell) *text {
	t := &text{columns: columns, widths: make([]int, len(columns))}
	titles := make([]Cell, len(columns))
	for i, c := range columns {
		titles[i] = Cell{c.Title, Faint}
	}
	for _, row := range append([][]Cell{titles}, rows...) {
		line := make([]Cell, len(columns))
		for i := range columns {
			if i < len(row) {
				line[i] = Cell{Harmless(row[i].Text), row[i].Style}
			}
			if line[i].Text == "" {
				line[i].Text = "-" // a column is never empty, for whoever splits at blanks
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(line[i].Text))
		}
		t.rows = append(t.rows, line)
	}
	return t
}

func (t *text) tabs() string {
	var b strings.Builder
	for _, row := range t.rows {
		for i, c := range row {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(c.Text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// fit leaves columns out, the highest rank first, and then narrows the widest, until a line has room.
func (t *text) fit(width int) {
	for t.width() > width {
		worst := -1
		for i, c := range t.columns {
			if c.Rank > 0 && (worst < 0 || c.Rank > t.columns[worst].Rank) {
				worst = i
			}
		}
		if worst < 0 {
			break
		}
		t.drop(worst)
	}
	for t.width() > width {
		widest := 0
		for i, w := range t.widths {
			if w > t.widths[widest] {
				widest = i
			}
		}
		if t.widths[widest] <= narrowest {
			return
		}
		t.widths[widest]--
	}
}

func (t *text) width() int {
	sum := len(gap) * (len(t.widths) - 1)
	for _, w := range t.widths {
		sum += w
	}
	return sum
}

func (t *text) drop(i int) {
	t.columns = append(append([]Column{}, t.columns[:i]...), t.columns[i+1:]...)
	t.widths = append(t.widths[:i], t.widths[i+1:]...)
	for r, row := range t.rows {
		t.rows[r] = append(row[:i], row[i+1:]...)
	}
}

func (t *text) draw(colour bool) string {
	var b strings.Builder
	for _, row := range t.rows {
		for i, c := range row {
			s := Cut(c.Text, t.widths[i])
			pad := t.widths[i] - utf8.RuneCountInString(s)
			b.WriteString(Paint(s, c.Style, colour))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", pad) + gap)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Paint returns s in a style, if there are colours.
func Paint(s string, style Style, colour bool) string {
	if !colour || style == Plain {
		return s
	}
	return "\x1b[" + string(style) + "m" + s + "\x1b[0m"
}

// Harmless returns s on one line and without anything that a terminal would take for a command.
func Harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// Cut returns s in at most n characters, with an ellipsis where something is missing.
func Cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	if n < 1 {
		return ""
	}
	return string([]rune(s)[:n-1]) + "…"
}

// Bar draws a part of a whole, in so many characters: blocks where there are such characters, else # and -.
func Bar(part float64, width int, blocks bool) string {
	full, empty := "#", "-"
	if blocks {
		full, empty = "█", "░"
	}
	if !(part > 0) { // also what is no number
		part = 0
	}
	n := int(min(part, 1)*float64(width) + 0.5) //nolint:mnd // rounds
	return strings.Repeat(full, n) + strings.Repeat(empty, width-n)
}
