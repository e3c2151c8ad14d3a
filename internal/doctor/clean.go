package doctor

import "strings"

// maxWords bounds what is repeated of an engine's words.
const maxWords = 600

// clean makes words of an engine, which repeats those of hooks, programs and image makers, one line that no terminal
// takes for a command.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfffd:
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxWords {
		s = string(runes[:maxWords]) + "…"
	}
	return s
}
