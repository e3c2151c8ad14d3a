package diagnose

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// plainRE is a word that a shell takes as it is.
var plainRE = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// quote makes one word of a shell of text that others have chosen: names, paths and variables come from containers,
// and people paste what the doctor says as root.
func quote(s string) string {
	if plainRE.MatchString(s) && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// yaml is a text in a configuration.
func yaml(s string) string { return strconv.Quote(s) }

// cli is the command line of the container's engine.
func (f *Facts) cli() string {
	if f.Subject.Engine == "podman" {
		return "podman"
	}
	return "docker"
}

// image is the image's name in commands, and name the container's.
func (f *Facts) image() string { return quote(cmp.Or(f.Subject.Image, "IMAGE")) }

func (f *Facts) name() string { return quote(cmp.Or(f.Subject.Container, "CONTAINER")) }

// pid is the process's number in commands.
func (f *Facts) pid() string {
	if f.Subject.PID == 0 {
		return "PID"
	}
	return fmt.Sprint(f.Subject.PID)
}

// instead is how to do without keys in the environment.
func (f *Facts) instead() []string { return []string{f.run("--device taskrole/role=ROLE")} }

// run is a command that makes the container anew, with an option more.
func (f *Facts) run(option string) string { return f.cli() + " run " + option + " " + f.image() }

// unset is how to find who sets variables, and how to do without them. The values stay out of sight.
func (f *Facts) unset(names ...string) []string {
	commands := []string{"unset " + strings.Join(names, " ")}
	if f.Subject.Container != "" && !f.Subject.Planned {
		look := fmt.Sprintf("%s inspect --format '{{range .Config.Env}}{{println .}}{{end}}' %s | grep -oE '^(%s)='", f.cli(), f.name(), strings.Join(names, "|"))
		commands = append([]string{look}, commands...)
	}
	return commands
}

// mounts is how to see whether a file comes from the host or the image, and what is there.
func (f *Facts) mounts(path string) []string {
	var commands []string
	if f.Subject.Container != "" && !f.Subject.Planned {
		commands = append(commands, f.cli()+" inspect --format '{{json .Mounts}}' "+f.name())
	}
	if f.Subject.PID != 0 {
		commands = append(commands, "ls -lnd "+quote("/proc/"+f.pid()+"/root"+path))
	}
	if len(commands) == 0 {
		commands = append(commands, "ls -lnd "+quote(path))
	}
	return commands
}
