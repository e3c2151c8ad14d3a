package policy

import (
	"strings"
	"unicode/utf8"
)

// maxFact bounds the text a pattern is held against. The work is at most the product of the two lengths, and labels
// come from whoever made the image: 4 KiB against a pattern of 256 bytes are a few milliseconds at worst.
const maxFact = 4 << 10

// Match says whether the whole of s is like the pattern: * stands for any characters, ? for exactly one character,
// all else for itself; there is no escape. Text longer than 4 KiB is like nothing.
func Match(pattern, s string) bool {
	if len(s) > maxFact {
		return false
	}
	// Only the latest star is ever tried again: if what follows it fails, an earlier star could only have given up
	// characters that the latest one may take as well. So the time is bounded by a product, never an exponent.
	p, i := 0, 0
	star, resume := -1, 0
	for i < len(s) {
		_, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			i += width
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			_, width = utf8.DecodeRuneInString(s[resume:])
			resume += width
			p, i = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchImage compares as Docker reads references: no tag means :latest, and a pattern without tag or digest stands
// for every tag and digest of that repository. So nobody is led to write "nginx*", which nginx-of-a-stranger matches.
func matchImage(pattern, image string) bool {
	if Match(pattern, image) {
		return true
	}
	repository, rest := splitImage(image)
	if patternRepository, patternRest := splitImage(pattern); patternRest == "" {
		return Match(patternRepository, repository)
	}
	return rest == "" && Match(pattern, repository+":latest")
}

// splitImage parts a reference into repository and ":tag", "@digest" or both. A bare image id is all repository:
// "sha256" is no repository whose tags could be matched.
func splitImage(ref string) (repository, rest string) {
	end := len(ref)
	if at := strings.IndexByte(ref, '@'); at >= 0 {
		end = at
	}
	if colon := strings.LastIndexByte(ref[:end], ':'); colon > strings.LastIndexByte(ref[:end], '/') && ref[:colon] != "sha256" {
		end = colon
	}
	return ref[:end], ref[end:]
}
