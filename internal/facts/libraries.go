package facts

import (
	"context"
	"debug/buildinfo"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"taskrole/internal/diagnose"
)

// program is what the search for SDKs knows of the process: all of it is the process's own word, and none of it leaves
// this package but as a path where something was found.
type program struct {
	exe, cwd string // in the process's root
	args     []string
	env      map[string]string
	home     string
	open     []string // files that it holds open or has mapped
	self     *os.File // its program; nil: it may not be read
	*tree

	found []diagnose.Library
}

// language is a way of having SDKs: how its programs are called, and where they keep libraries.
type language struct {
	programs []string // the beginnings of their names
	sdks     []diagnose.SDK
	search   func(*program)
}

func languages() []language {
	return []language{
		{[]string{"python", "pypy", "uwsgi", "gunicorn", "celery"}, []diagnose.SDK{diagnose.Botocore, diagnose.CLIv2}, (*program).python},
		{[]string{"node", "nodejs", "bun", "deno"}, []diagnose.SDK{diagnose.JSv3, diagnose.JSv2}, (*program).node},
		{[]string{"java"}, []diagnose.SDK{diagnose.JavaV2, diagnose.JavaV1}, (*program).java},
		{[]string{"ruby", "puma", "jruby"}, []diagnose.SDK{diagnose.Ruby}, (*program).ruby},
		{[]string{"php", "apache2", "httpd", "frankenphp"}, []diagnose.SDK{diagnose.PHP}, (*program).php},
		{[]string{"dotnet"}, []diagnose.SDK{diagnose.DotNet}, (*program).dotnet},
	}
}

// wrappers start the application and stay in front of it, or are a shell in which everything may be called.
var wrappers = []string{
	"sh", "bash", "dash", "ash", "busybox", "zsh", "tini", "tini-static", "dumb-init", "docker-init", "catatonit", "s6-svscan", "supervisord", "runsv", "runsvdir", "su-exec",
	"gosu", "sleep", "tail", "pause", "init", "systemd",
}

// searched is what was found, and which SDKs the process can have. None means any.
type searched struct {
	libraries []diagnose.Library
	possible  []diagnose.SDK
	cut       bool
}

// Bounds of the search among the children of a wrapper.
const (
	deepest  = 3
	maxChild = 16
)

// libraries looks for SDKs in the process's program and files, and where it only stands before the application, in the
// application's. Nothing is run.
func (p *Process) libraries(ctx context.Context, home string, depth int) (searched, error) {
	if slices.Contains(wrappers, path.Base(p.exe)) && depth < deepest {
		if s := p.children(ctx, home, depth); len(s.libraries) > 0 {
			return s, nil
		}
	}
	prog := &program{
		exe: p.inRoot(strings.TrimSuffix(p.exe, " (deleted)")), cwd: p.inRoot(p.link("cwd")), args: p.args, home: home, open: p.openFiles(),
		env: map[string]string{}, tree: &tree{ctx: ctx, root: p.root, opens: maxOpens, names: maxNames, bytes: maxBytes},
	}
	if self, err := os.Open(p.path("exe")); err == nil {
		prog.self = self
		defer func() { _ = self.Close() }() // only read
	}
	for _, kv := range p.env {
		if k, v, ok := strings.Cut(kv, "="); ok && prog.env[k] == "" {
			prog.env[k] = v
		}
	}
	return onThread(func() (searched, error) {
		if err := p.user.become(); err != nil {
			return searched{}, err
		}
		return prog.search(), nil
	})
}

// children are searched before their wrapper.
func (p *Process) children(ctx context.Context, home string, depth int) (all searched) {
	b, err := readSome(p.path("task/" + strconv.Itoa(p.pid) + "/children"))
	if err != nil {
		return all // a kernel without the list, or it has gone
	}
	kids := strings.Fields(string(b))
	for _, k := range kids[:min(len(kids), maxChild)] {
		pid, err := strconv.Atoi(k)
		if err != nil || ctx.Err() != nil {
			break
		}
		child, err := openProcess(pid)
		if err != nil {
			continue // it has gone
		}
		if child.root != nil {
			if s, err := child.libraries(ctx, home, depth+1); err == nil {
				all.add(s)
			}
		}
		_ = child.Close() // descriptors for looking only
	}
	return all
}

// add adds what another process of the container has. What a language can have counts only where it was found.
func (s *searched) add(o searched) {
	s.cut = s.cut || o.cut
	for _, l := range o.libraries {
		if !slices.ContainsFunc(s.libraries, func(m diagnose.Library) bool { return m.SDK == l.SDK }) {
			s.libraries, s.possible = append(s.libraries, l), append(s.possible, l.SDK)
		}
	}
}

func (g *program) search() searched {
	var s searched
	name := path.Base(g.exe)
	for _, l := range languages() {
		if slices.ContainsFunc(l.programs, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			s.possible = append(s.possible, l.sdks...)
			l.search(g)
		}
	}
	switch {
	case len(s.possible) > 0:
	case slices.Contains(wrappers, name):
		for _, l := range languages() {
			l.search(g)
		}
	default:
		g.native()
		g.dotnet()
	}
	s.libraries, s.cut = g.found, g.cut
	if len(g.found) > 0 {
		s.possible = nil
		for _, f := range g.found {
			if !slices.Contains(s.possible, f.SDK) {
				s.possible = append(s.possible, f.SDK)
			}
		}
	}
	return s
}

// maxFound bounds what a report lists.
const maxFound = 20

// has notes an SDK. The first place for each is the nearest to the program; further ones are not listed.
func (g *program) has(s diagnose.SDK, version, where string) {
	if len(g.found) >= maxFound || slices.ContainsFunc(g.found, func(l diagnose.Library) bool { return l.SDK == s }) {
		return
	}
	if !versionRE.MatchString(version) {
		version = ""
	}
	g.found = append(g.found, diagnose.Library{SDK: s, Version: version, Path: clean(path.Clean(where), maxShown)})
}

func (g *program) hasAny(s ...diagnose.SDK) bool {
	return slices.ContainsFunc(g.found, func(l diagnose.Library) bool { return slices.Contains(s, l.SDK) })
}

var versionRE = regexp.MustCompile(`^[0-9][0-9A-Za-z.+_-]{0,40}$`)

// absolute is a path of the process's, seen from its root.
func (g *program) absolute(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", g.cwd, name)
}

// upwards are a directory and all above it.
func upwards(dir string) (all []string) {
	const deepest = 40
	for dir = path.Clean("/" + dir); len(all) < deepest; dir = path.Dir(dir) {
		all = append(all, dir)
		if dir == "/" {
			break
		}
	}
	return all
}

// scripts are the directories of what the command line names: where an application's own files are.
func (g *program) scripts() []string {
	const most = 8
	var dirs []string
	for _, a := range g.args[min(1, len(g.args)):] {
		if a == "" || a[0] == '-' || !strings.Contains(a, "/") && !strings.Contains(a, ".") || len(a) > 4096 {
			continue
		}
		if dir := path.Dir(g.absolute(a)); !slices.Contains(dirs, dir) && len(dirs) < most {
			dirs = append(dirs, dir)
		}
	}
	if g.cwd != "" && !slices.Contains(dirs, g.cwd) {
		dirs = append(dirs, g.cwd)
	}
	return dirs
}

// listed are the directories in a variable such as PATH.
func (g *program) listed(variable string) (dirs []string) {
	const most = 20
	for d := range strings.SplitSeq(g.env[variable], ":") {
		if d != "" && len(dirs) < most {
			dirs = append(dirs, g.absolute(d))
		}
	}
	return dirs
}

// native looks into the program itself: Go writes down what it is made of, Rust the paths of its sources.
func (g *program) native() {
	if v, rest, ok := strings.Cut(g.exe, "/aws-cli/v2/"); ok && v != "" {
		version, _, _ := strings.Cut(rest, "/")
		g.has(diagnose.CLIv2, version, g.exe)
		return
	}
	for _, f := range g.open {
		if strings.HasPrefix(path.Base(f), "libaws-cpp-sdk-core") {
			g.has(diagnose.Cpp, "", f)
		}
	}
	if g.self == nil {
		return
	}
	program := &bounded{File: g.self, tree: g.tree}
	info, err := buildinfo.Read(program)
	if err != nil {
		g.traces(program)
		return
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		version := strings.TrimPrefix(d.Version, "v")
		switch d.Path {
		case "github.com/aws/aws-sdk-go-v2":
			g.has(diagnose.GoV2, version, g.exe)
		case "github.com/aws/aws-sdk-go":
			g.has(diagnose.GoV1, version, g.exe)
		}
	}
}

// What the sources of Rust's SDK are called in the messages of a panic, and C++'s in what it calls itself.
var (
	rustRE = regexp.MustCompile(`aws-config-([0-9]+\.[0-9]+\.[0-9]+)/src`)
	cppRE  = regexp.MustCompile(`aws-sdk-cpp/([0-9.]*)`)
)

// traces reads a program that is not Go's.
func (g *program) traces(f *bounded) {
	const most, piece, overlap = 128 << 20, 1 << 20, 64
	b := make([]byte, piece)
	for off := int64(0); off < most; off += piece - overlap {
		n, err := f.ReadAt(b, off)
		if m := rustRE.FindSubmatch(b[:n]); m != nil {
			g.has(diagnose.Rust, string(m[1]), g.exe)
		}
		if m := cppRE.FindSubmatch(b[:n]); m != nil {
			g.has(diagnose.Cpp, string(m[1]), g.exe)
		}
		if err != nil || n < piece {
			return
		}
	}
}

// inRoot is a path as the process sees it: the kernel tells those of one that is in a chroot from outside.
func (p *Process) inRoot(name string) string {
	root := p.link("root")
	if rest, ok := strings.CutPrefix(name, root); ok && root != "/" && (rest == "" || rest[0] == '/') {
		return path.Join("/", rest)
	}
	return name
}

// openFiles are the files that the process has mapped or holds open, as far as we may see.
func (p *Process) openFiles() (names []string) {
	const most = 4096
	maps, _, err := readUpTo(p.path("maps"), maxProc)
	if err != nil {
		maps = nil // it may not be seen
	}
	for line := range strings.Lines(string(maps)) {
		if i := strings.IndexByte(line, '/'); i > 0 && len(names) < most {
			if name := p.inRoot(strings.TrimSpace(line[i:])); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	dir, err := os.Open(p.path("fd"))
	if err != nil {
		return names
	}
	defer func() { _ = dir.Close() }() // only read
	fds, _ := dir.Readdirnames(most)   // as many as there are
	for _, fd := range fds {
		if name := p.inRoot(p.link("fd/" + fd)); path.IsAbs(name) {
			names = append(names, name)
		}
	}
	return names
}
