package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"taskrole/lab/probe/report"
)

// line is one cell as --json prints it: exactly these members, in this order.
type line struct {
	Where   Where    `json:"where"`
	Column  Column   `json:"column"`
	ARN     string   `json:"arn"`
	Buckets []string `json:"buckets"`
	Error   string   `json:"error"`
	Seconds float64  `json:"seconds"`
	OK      bool     `json:"ok"`
}

// WriteJSON writes one object a line, in the order of the table.
func WriteJSON(w io.Writer, cells []Cell) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	for _, c := range cells {
		l := line{
			Where: c.Where, Column: c.Column, ARN: c.Outcome.Report.ARN, Buckets: c.Outcome.Report.Buckets,
			Error: c.Complaint(), Seconds: float64(int(c.Seconds()*1000)) / 1000, OK: c.OK(),
		}
		if l.Buckets == nil {
			l.Buckets = []string{}
		}
		if err := out.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

// columnWidth is where a field of the text table is wrapped.
const columnWidth = 46

// WriteText writes the table, and below it what was measured in each cell.
func WriteText(w io.Writer, cells []Cell) error {
	var b strings.Builder
	table := [][]string{{"where the process runs", "plain", "with taskrole"}}
	for _, where := range rows() {
		row := []string{where.label()}
		for _, column := range []Column{Plain, Taskrole} {
			row = append(row, field(cells, where, column))
		}
		table = append(table, row)
	}
	writeTable(&b, table)
	b.WriteString("\nmeasured in this run:\n")
	for _, c := range cells {
		writeDetails(&b, c)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func field(cells []Cell, where Where, column Column) string {
	i := slices.IndexFunc(cells, func(c Cell) bool { return c.Where == where && c.Column == column })
	if i >= 0 {
		return cells[i].Words
	}
	if _, promised := expectations()[where][column]; promised {
		return "⚠️ not measured"
	}
	return "–"
}

// writeTable aligns the columns and wraps long fields.
func writeTable(b *strings.Builder, table [][]string) {
	wrapped := make([][][]string, len(table))
	widths := make([]int, len(table[0]))
	for i, row := range table {
		for j, text := range row {
			lines := wrap(text, columnWidth)
			wrapped[i] = append(wrapped[i], lines)
			for _, l := range lines {
				widths[j] = max(widths[j], width(l))
			}
		}
	}
	for i, row := range wrapped {
		for n := range max(len(row[0]), len(row[1]), len(row[2])) {
			var fields []string
			for j, lines := range row {
				text := ""
				if n < len(lines) {
					text = lines[n]
				}
				fields = append(fields, text+strings.Repeat(" ", widths[j]-width(text)))
			}
			fmt.Fprintln(b, strings.TrimRight(strings.Join(fields, "  "), " "))
		}
		if i == 0 {
			fmt.Fprintln(b, strings.Repeat("─", widths[0]+widths[1]+widths[2]+4))
		}
	}
}

// wrap breaks text at spaces into lines of at most most columns; a longer word stays whole.
func wrap(text string, most int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= most:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// width is how many columns a terminal gives the text: two for the signs this package uses, none for the selector
// that makes a sign an emoji.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch r {
		case '✅', '❌', '⚠':
			n += 2
		case '\ufe0f':
		default:
			n++
		}
	}
	return n
}

func writeDetails(b *strings.Builder, c Cell) {
	fmt.Fprintf(b, "  %-20s  %-8s  %6.2f s  ", c.Where, c.Column, c.Seconds())
	const indent = "\n                                            "
	var parts []string
	if c.Outcome.Refusal != "" {
		parts = append(parts, "refused: "+oneLine(c.Outcome.Refusal))
	} else {
		parts = found(c.Outcome.Report)
	}
	if c.Outcome.Later != nil {
		for _, p := range found(*c.Outcome.Later) {
			parts = append(parts, "after their end: "+p)
		}
	}
	if !c.OK() {
		parts = append(parts, "NOT AS IT SHOULD BE: "+c.Wrong)
	}
	b.WriteString(strings.Join(parts, indent) + "\n")
}

func found(r report.Report) []string {
	var parts []string
	if r.ARN != "" {
		parts = append(parts, r.ARN)
	}
	if r.Buckets != nil {
		parts = append(parts, "buckets "+strings.Join(r.Buckets, ", "))
	}
	for _, e := range []string{r.Errors.Credentials, r.Errors.STS, r.Errors.S3} {
		if e != "" {
			parts = append(parts, "error: "+oneLine(e))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing")
	}
	return parts
}

// oneLine keeps what others wrote from breaking the output.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
