// Package manual makes manual pages of Markdown.
//
// It is the one door to go-md2man, which runc, Docker and Podman make theirs with. It refuses to be a second text: what
// it is given is the help of the commands and the pages in doc/, so that nothing is written twice. Links are left out,
// since they lead to files that are not installed, and no date is put in, so that the same release gives the same pages.
package manual

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// Page is one manual page.
type Page struct {
	Name     string // taskrole-agent
	Section  int    // of the manual
	Short    string // one line, for NAME
	Markdown string // what follows NAME; headings begin with ##
}

var (
	link    = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
	heading = regexp.MustCompile(`(?m)^(##+) (.*)$`)
	table   = regexp.MustCompile(`(?m)(^\|.*\n)(^\|[-| :]+\n)((?:^\|.*(?:\n|\z))+)`)
	bar     = regexp.MustCompile(`([^\\])\|`)
)

// Path is where the page goes below share/man.
func (p Page) Path() string { return fmt.Sprintf("man%d/%s.%d", p.Section, p.Name, p.Section) }

// Roff formats the page for man(1).
func (p Page) Roff() []byte {
	text := link.ReplaceAllString(p.Markdown, "$1")
	text = table.ReplaceAllStringFunc(text, list)
	text = heading.ReplaceAllStringFunc(text, func(h string) string {
		m := heading.FindStringSubmatch(h)
		if m[1] == "##" { // a section; ### is a part of one
			m[2] = strings.ToUpper(m[2])
		}
		return m[1] + " " + m[2]
	})
	head := fmt.Sprintf("%% %q \"%d\" \"\" \"taskrole\" \"taskrole\"\n\n# NAME\n\n%s - %s\n\n", strings.ToUpper(p.Name), p.Section, p.Name, p.Short)
	return md2man.Render([]byte(head + text))
}

// list makes a table a list with a paragraph for each row, as a terminal has room for.
func list(text string) string {
	m := table.FindStringSubmatch(text)
	names := cells(m[1])
	var b strings.Builder
	for row := range strings.Lines(m[3]) {
		of := cells(row)
		var words []string
		for i, c := range of[1:] {
			if i > 0 && i+1 < len(names) && names[i+1] != "" {
				c = strings.ToUpper(names[i+1][:1]) + names[i+1][1:] + ": " + c
			}
			words = append(words, strings.TrimSuffix(c, ".")+".")
		}
		b.WriteString(of[0] + "\n: " + strings.Join(words, " ") + "\n\n")
	}
	return b.String()
}

// cells splits a row of a table. A bar behind a backslash is text.
func cells(row string) []string {
	row = strings.Trim(strings.TrimSpace(row), "|")
	list := strings.Split(bar.ReplaceAllString(" "+row, "$1\x00"), "\x00")
	for i, c := range list {
		list[i] = strings.TrimSpace(strings.ReplaceAll(c, `\|`, "|"))
	}
	return list
}
