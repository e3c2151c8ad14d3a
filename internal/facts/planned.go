package facts

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"taskrole/internal/diagnose"
	"taskrole/internal/secret"
)

// Plan is a container that is not started yet.
type Plan struct {
	Env    []secret.Value    // the image's
	Files  []string          // files of further variables, which count more than the image's and less than what follows
	Given  []secret.Value    // variables of the command line; a bare name takes its value from our own environment
	Role   []secret.Value    // what comes with the role, which counts most
	Mounts map[string]string // path inside to path on the host
	User   string            // name or number; "" is root
}

// variables are an environment that is being put together: of two values the later counts.
type variables struct {
	order  []string
	values map[string]string
}

// put adds KEY=VALUE, or KEY with the value that we have ourselves, as docker run does.
func (v *variables) put(line string) {
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		if value, ok = os.LookupEnv(name); !ok {
			return
		}
	}
	if _, twice := v.values[name]; !twice {
		v.order = append(v.order, name)
	}
	v.values[name] = value
}

func (v *variables) file(b []byte) {
	for line := range strings.Lines(string(b)) {
		if line = strings.Trim(line, " \t\r\n"); line != "" && line[0] != '#' {
			v.put(line)
		}
	}
}

func (v *variables) all(values []secret.Value) {
	for _, kv := range values {
		v.put(kv.Reveal())
	}
}

func (v *variables) lines() []string {
	lines := make([]string, 0, len(v.order))
	for _, name := range v.order {
		lines = append(lines, name+"="+v.values[name])
	}
	return lines
}

// Planned puts what a container would have into f, masked.
func Planned(p Plan, f *diagnose.Facts) {
	v := &variables{values: map[string]string{}}
	v.all(p.Env)
	for _, name := range p.Files {
		b, err := regular(name)
		if err != nil {
			f.Unseen = append(f.Unseen, "the variables in "+clean(name, maxShown)+": "+cause(err))
			continue
		}
		v.file(b)
	}
	v.all(p.Given)
	v.all(p.Role)
	r := environment(v.lines(), f)
	f.Subject.Home = r.text["HOME"]
	if f.Subject.Home == "" && (p.User == "" || p.User == "root" || p.User == "0") {
		f.Subject.Home = "/root"
	}
	p.look(r, f)
}

// look reads the files that would be mounted. What is in the image is not looked at.
func (p Plan) look(r *raw, f *diagnose.Facts) {
	standard := path.Join(f.Subject.Home, ".aws/credentials")
	f.Credentials = p.profiles(either(r.text["AWS_SHARED_CREDENTIALS_FILE"], standard), false)
	f.Config = p.profiles(either(r.text["AWS_CONFIG_FILE"], path.Join(f.Subject.Home, ".aws/config")), true)
	f.HomeFile = p.profiles(standard, false)
	for variable, file := range map[string]*diagnose.File{
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": &f.TokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE": &f.WebIdentity,
	} {
		if name := r.text[variable]; name != "" {
			b, found := p.file(name)
			found.Empty, found.Newline = strings.TrimSpace(string(b)) == "", strings.ContainsAny(string(b), "\r\n")
			*file = found
		}
	}
}

func (p Plan) profiles(name string, config bool) diagnose.File {
	b, file := p.file(name)
	if file.State == diagnose.Read {
		file.Profiles = profiles(b, config)
	}
	return file
}

// file reads what would be at a path inside, if a mount leads there.
func (p Plan) file(name string) ([]byte, diagnose.File) {
	file := diagnose.File{Path: clean(name, maxShown)}
	for inside, outside := range p.Mounts {
		rest, ok := strings.CutPrefix(path.Clean(name), path.Clean(inside))
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		b, err := regular(filepath.Join(outside, rest))
		switch {
		case err == nil:
			file.State = diagnose.Read
		case errors.Is(err, unix.ENOENT):
			file.State = diagnose.Missing
		default:
			file.State, file.Why = diagnose.Odd, cause(err)
		}
		return b, file
	}
	return nil, file
}

// regular reads a file of the host.
func regular(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return readFrom(f)
}
