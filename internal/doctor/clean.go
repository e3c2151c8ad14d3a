package doctor

import "strings"

// maxWords bounds what is repeated of an engine's words. They end with the code of ours that is looked for, so that the
// middle is left out.
const maxWords = 4096

// clean makes words of an engine, which repeats those of hooks, programs and image makers, one line that no terminal
// takes for a command.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfffd:
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxWords {
		s = string(runes[:maxWords/2]) + " … " + string(runes[len(runes)-maxWords/2:])
	}
	return s
}
