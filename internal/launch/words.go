package launch

// Word is one flag of docker run with its value; "true" for a switch.
type Word struct{ Name, Value string }

// Words returns the flags in front of the image, for whoever wants to know what would be started. Names are those of the
// long flags. It stops at the first flag that is in no list of ours, because what follows could be its value.
func Words(args []string) []Word {
	var words []Word
	for _, f := range flagsOf(args) {
		words = append(words, Word{f.name, f.value})
	}
	return words
}
