package hook

// ParseState is parseState without its private type.
func ParseState(data []byte) (id string, pid int64, bundle string, err error) {
	s, err := parseState(data)
	return string(s.ID), s.PID, s.Bundle, err
}

// MaxState and MaxLine are the bounds of what comes in and what goes out.
const (
	MaxState = maxState
	MaxLine  = maxLine
)
