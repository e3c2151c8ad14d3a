package table_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"taskrole/internal/table"
)

var columns = []table.Column{{Title: "NAME"}, {Title: "ROLE"}, {Title: "IMAGE", Rank: 1}, {Title: "CLIENT", Rank: 2}}

func plain(rows ...[]string) [][]table.Cell {
	var all [][]table.Cell
	for _, row := range rows {
		var cells []table.Cell
		for _, s := range row {
			cells = append(cells, table.Cell{Text: s})
		}
		all = append(all, cells)
	}
	return all
}

func TestFormatByWidth(t *testing.T) {
	rows := plain([]string{"web-1", "s3-reader", "nginx:1.27", "Boto3/1.34"}, []string{"db", "s3-writer", "", "curl"})
	for name, c := range map[string]struct {
		width int
		want  string
	}{
		"program": {0, "NAME\tROLE\tIMAGE\tCLIENT\nweb-1\ts3-reader\tnginx:1.27\tBoto3/1.34\ndb\ts3-writer\t-\tcurl\n"},
		"wide": {100, "NAME   ROLE       IMAGE       CLIENT\n" +
			"web-1  s3-reader  nginx:1.27  Boto3/1.34\n" +
			"db     s3-writer  -           curl\n"},
		"without_the_client": {39, "NAME   ROLE       IMAGE\nweb-1  s3-reader  nginx:1.27\ndb     s3-writer  -\n"},
		"without_the_image":  {20, "NAME   ROLE\nweb-1  s3-reader\ndb     s3-writer\n"},
		"cut":                {14, "NAME   ROLE\nweb-1  s3-rea…\ndb     s3-wri…\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := table.Format(columns, rows, table.Options{Width: c.width}); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestColourIsAroundTheTextOnly(t *testing.T) {
	rows := [][]table.Cell{{{Text: "a", Style: table.Red}, {Text: "b"}}}
	want := "\x1b[2mNAME\x1b[0m  \x1b[2mROLE\x1b[0m\n\x1b[31ma\x1b[0m     b\n"
	if got := table.Format(columns[:2], rows, table.Options{Width: 80, Colour: true}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever is in the cells, each row is one line with the same columns, of printable characters, and fits if it can.
func TestCellsOfStrangersStayInTheirPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := plain(rapid.SliceOfN(rapid.SliceOfN(rapid.String(), 0, 4), 0, 5).Draw(t, "rows")...)
		width := rapid.IntRange(0, 120).Draw(t, "width")
		lines := strings.Split(strings.TrimSuffix(table.Format(columns, rows, table.Options{Width: width}), "\n"), "\n")
		if len(lines) != len(rows)+1 {
			t.Fatalf("%d lines for %d rows", len(lines), len(rows))
		}
		for _, line := range lines {
			if width == 0 && strings.Count(line, "\t") != len(columns)-1 {
				t.Errorf("%q has other columns", line)
			}
			if strings.ContainsFunc(strings.ReplaceAll(line, "\t", ""), func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
				t.Errorf("%q has control characters", line)
			}
			if n := utf8.RuneCountInString(line); width >= 14 && n > width {
				t.Errorf("%q is %d characters wide, not %d", line, n, width)
			}
		}
	})
}
