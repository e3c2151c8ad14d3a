package diagnose

// Library is an SDK that was found in the process's files or in its program, without running anything.
type Library struct {
	SDK     SDK    `json:"sdk"`
	Version string `json:"version,omitempty"` // as its own files say; "" where they do not
	Path    string `json:"path"`              // the evidence, in the process's root
}

// LibraryOf is the library of s that was found first, which is the one nearest to the program.
func (f *Facts) LibraryOf(s SDK) (Library, bool) {
	for _, l := range f.Libraries {
		if l.SDK == s {
			return l, true
		}
	}
	return Library{}, false
}
