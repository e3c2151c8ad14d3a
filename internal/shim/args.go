package shim

import (
	"path/filepath"
	"slices"
	"strings"
)

// command is what we need of a runtime's command line.
type command struct {
	name       string // create, run, restore, state…; "" if there is none
	bundle     string // --bundle, or ""
	configName string // crun's --config, or ""
	logPath    string // --log, or ""
	logFormat  string // --log-format, or ""
}

// makesContainer says whether the command starts a container from a bundle. A restored one too runs the hooks of
// config.json, which its engine has written anew.
func (c command) makesContainer() bool {
	return c.name == "create" || c.name == "run" || c.name == "restore"
}

// config is the path of the container's configuration; dir is the working directory.
func (c command) config(dir string) string {
	bundle := c.bundle
	if !filepath.IsAbs(bundle) {
		bundle = filepath.Join(dir, bundle)
	}
	switch {
	case c.configName == "":
		return filepath.Join(bundle, "config.json")
	case filepath.IsAbs(c.configName):
		return c.configName
	}
	// crun changes into the bundle before it opens this file.
	return filepath.Join(bundle, c.configName)
}

// Flags with a value, before the command and after it, of runc 1.4 and crun 1.26. All others of theirs have none.
func globalValues() []string {
	return []string{"log", "log-format", "root", "criu", "rootless", "cgroup-manager"}
}

func createValues() []string {
	return []string{
		"bundle", "b", "config", "f", "console-socket", "pidfd-socket", "pid-file", "preserve-fds",
		// of restore
		"image-path", "work-path", "manage-cgroups-mode", "empty-ns", "lsm-profile", "lsm-mount-context",
	}
}

// commands is every command of runc and crun. It is needed only behind a global flag that we do not know: if the
// word that follows is none of these, it is the flag's value.
func commands() []string {
	return []string{
		"checkpoint", "create", "delete", "events", "exec", "features", "help", "init", "kill", "list", "mounts", "pause",
		"ps", "restore", "resume", "run", "spec", "start", "state", "update", "version",
	}
}

// parseArgs understands args as runc (urfave/cli v1) and crun (argp) do: -flag and --flag are the same, a value is
// in the same word behind "=" or in the next word, crun's -b and -f may have it directly behind them, flags may
// follow the container's id, and "--" ends them. Of a flag that is given twice the last one counts. It never fails:
// what is wrong is the real runtime's to refuse.
func parseArgs(args []string) command {
	var c command
	unknown := false // the last flag was one we do not know, so the next word may be its value
	for len(args) > 0 && c.name == "" {
		f := readFlag(args, globalValues())
		args = f.rest
		switch {
		case f.word == "--": // the command follows
		case !f.isFlag && unknown && !slices.Contains(commands(), f.word):
			unknown = false
		case !f.isFlag:
			c.name = f.word
		default:
			unknown = !f.hasValue
			c.setGlobal(f)
		}
	}
	if !c.makesContainer() {
		return c
	}
	for len(args) > 0 && args[0] != "--" {
		f := readFlag(args, createValues())
		args = f.rest
		if f.isFlag {
			c.setCreate(f)
		}
	}
	return c
}

func (c *command) setGlobal(f flagWord) {
	switch f.word {
	case "log":
		c.logPath = f.value
	case "log-format":
		c.logFormat = f.value
	}
}

func (c *command) setCreate(f flagWord) {
	switch f.word {
	case "bundle", "b":
		c.bundle = f.value
	case "config", "f":
		c.configName = f.value
	default:
		c.setAttached(f)
	}
}

// setAttached is for -bDIR and -fFILE. Only crun takes them; runc refuses such a flag, so nothing is lost by
// reading them that way for both.
func (c *command) setAttached(f flagWord) {
	if value, ok := strings.CutPrefix(f.raw, "-b"); ok {
		c.bundle = value
	}
	if value, ok := strings.CutPrefix(f.raw, "-f"); ok {
		c.configName = value
	}
}

// flagWord is one word of the command line, and its value if it is a flag with one.
type flagWord struct {
	raw      string // as it stands there
	word     string // without dashes and value
	value    string
	isFlag   bool
	hasValue bool
	rest     []string
}

// readFlag reads the first word of args; withValue are the flags that take the next word.
func readFlag(args, withValue []string) flagWord {
	word := args[0]
	f := flagWord{raw: word, word: word, rest: args[1:]}
	name := strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-")
	if name == word || name == "" {
		return f // "-" and "--" are words
	}
	f.isFlag = true
	f.word, f.value, f.hasValue = strings.Cut(name, "=")
	if !f.hasValue && slices.Contains(withValue, f.word) && len(f.rest) > 0 {
		f.value, f.rest, f.hasValue = f.rest[0], f.rest[1:], true
	}
	return f
}
