package shim

// Parsed is command, for tests.
type Parsed struct{ Name, Config, Log, LogFormat string }

// ParseArgs is parseArgs, with the configuration's path for a working directory /cwd.
func ParseArgs(args []string) Parsed {
	c := parseArgs(args)
	return Parsed{c.name, c.config("/cwd"), c.logPath, c.logFormat}
}
