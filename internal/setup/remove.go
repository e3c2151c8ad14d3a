package setup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"taskrole/internal/cdispec"
	"taskrole/internal/fault"
)

// alias is what the runtime's name stands for when taskrole is gone and containers still name it.
const alias = `{"path": "runc"}`

// Remove plans to undo what Install did.
func Remove(ctx context.Context, o Options) (*Plan, error) {
	s, err := o.load()
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	if len(s.Files) == 0 && len(s.Dirs) == 0 {
		p.note("setup has put nothing here")
		return p, nil
	}
	if f := s.find(unitPath); f != nil {
		if cur, err := o.look(unitPath); err == nil && cur.exists {
			o.command(p, "", "systemctl", "disable", "--now", unit)
		}
	}
	files := slices.Clone(s.Files)
	slices.Reverse(files)
	docker := false
	for _, f := range files {
		before := len(p.Steps)
		if f.Path == daemonPath {
			err = o.uninstallDaemon(ctx, p, s, f)
			docker = len(p.Steps) > before && p.Steps[before].do != nil
		} else {
			err = o.uninstall(p, s, f)
		}
		if err != nil {
			return nil, err
		}
	}
	o.runtimeState(p)
	dirs := s.leave()
	if len(s.Files) > 0 {
		o.save(p, s)
	}
	o.sweep(p, s)
	o.directories(p, dirs)
	if slices.ContainsFunc(files, func(f saved) bool { return f.Path == unitPath }) {
		o.command(p, "", "systemctl", "daemon-reload")
	}
	o.docker(p, docker)
	return p, nil
}

// uninstall plans the way back for one file.
func (o Options) uninstall(p *Plan, s *state, f saved) error {
	cur, err := o.look(f.Path)
	if err != nil {
		return err
	}
	s.forget(f.Path)
	switch {
	case !cur.exists:
		p.add(Step{Verb: "unchanged", What: f.Path, Note: "it is gone already"})
		return nil
	case f.Original != nil && f.Original.Sum == sum(cur.data):
		p.add(Step{Verb: "unchanged", What: f.Path})
		return nil
	case sum(cur.data) != f.Written:
		p.add(Step{Verb: "keep", What: f.Path, Note: "somebody has changed it since setup wrote it"})
		return nil
	}
	return o.back(p, s, f)
}

// back plans to put the original there.
func (o Options) back(p *Plan, s *state, f saved) error {
	if f.Original == nil {
		p.add(Step{Verb: "remove", What: f.Path, do: func(context.Context) error { return o.remove(f.Path) }})
		return nil
	}
	was, err := o.content(s, f.Original)
	if err != nil {
		return err
	}
	p.add(Step{Verb: "restore", What: f.Path, do: func(context.Context) error { return o.put(f.Path, was) }})
	return nil
}

// uninstallDaemon plans the way back for daemon.json.
func (o Options) uninstallDaemon(ctx context.Context, p *Plan, s *state, f saved) error {
	cur, err := o.look(daemonPath)
	if err != nil {
		return err
	}
	if !cur.exists {
		s.forget(daemonPath)
		p.add(Step{Verb: "unchanged", What: daemonPath, Note: "it is gone already"})
		return nil
	}
	base, err := o.before(s, f, cur)
	if err != nil {
		return err
	}
	if why := o.inUse(ctx, base); why != "" {
		return o.leaveAlias(p, s, cur, base, why)
	}
	s.forget(daemonPath)
	if sum(cur.data) == f.Written {
		return o.back(p, s, f)
	}
	_, left, err := undo(cur.data, f.Edits)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		p.note("%s: somebody has changed %s since setup wrote it: it stays as it is", daemonPath, strings.Join(left, " and "))
	}
	if sum(base.data) == sum(cur.data) {
		p.add(Step{Verb: "unchanged", What: daemonPath})
		return nil
	}
	p.add(Step{
		Verb: "change", What: daemonPath, Note: "somebody has changed it since setup wrote it: only what setup added goes",
		Diff: difference(daemonPath, cur.data, base.data),
		do:   func(context.Context) error { return o.put(daemonPath, base) },
	})
	return nil
}

// leaveAlias plans a daemon.json in which the runtime's name is another name of runc: containers that were made with it
// would not start without, and Docker would not start with it as its default. The state remembers what is left to do.
func (o Options) leaveAlias(p *Plan, s *state, cur, base found, why string) error {
	data := base.data
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}\n")
	}
	data, edits, err := set(data, nil, "runtimes", runtimeName, alias)
	if err != nil {
		return err
	}
	s.record(saved{Path: daemonPath, Written: sum(data), Original: s.keep(base), Edits: edits})
	o.save(p, s)
	p.note("the runtime %q stays as another name of runc, because %s; those containers have no role then, and on a bridge they reach the host's own. "+
		"When none is left, run taskrole setup --remove again, from wherever the program is", runtimeName, why)
	if sum(data) == sum(cur.data) {
		p.add(Step{Verb: "unchanged", What: daemonPath})
		return nil
	}
	next := cur
	next.data = data
	p.add(Step{
		Verb: "change", What: daemonPath, Diff: difference(daemonPath, cur.data, data),
		do: func(context.Context) error { return o.put(daemonPath, next) },
	})
	return nil
}

// inUse says why the runtime's name must go on to mean something, or nothing. Where Docker does not say which
// containers it has, and has some, they count as ours: a name too many does no harm.
func (o Options) inUse(ctx context.Context, base found) string {
	if base.exists && defaultRuntime(base.data) {
		return "default-runtime names it"
	}
	if o.ByRuntime == nil {
		return ""
	}
	names, err := o.ByRuntime(ctx, runtimeName)
	if err != nil {
		some, globErr := filepath.Glob(filepath.Join(o.Root, "/var/lib/docker/containers/*"))
		if globErr == nil && len(some) == 0 {
			return ""
		}
		return "Docker does not say whether containers name it: " + fault.As(err).What
	}
	switch n := len(names); {
	case n == 0:
		return ""
	case n == 1:
		return "a container names it: " + names[0]
	case n <= 3:
		return fmt.Sprintf("%d containers name it: %s", n, strings.Join(names, ", "))
	default:
		return fmt.Sprintf("%d containers name it: %s and others", n, strings.Join(names[:3], ", "))
	}
}

// runtimeState plans to remove what the agent made on this host.
func (o Options) runtimeState(p *Plan) {
	if !o.Host {
		return
	}
	for _, path := range []string{filepath.Join(cdiDir, cdispec.FileName), "/run/taskrole"} {
		full := filepath.Join(o.Root, path)
		if _, err := os.Lstat(full); err == nil {
			p.add(Step{Verb: "remove", What: path, do: func(context.Context) error { return os.RemoveAll(full) }})
		}
	}
	if o.Clear != nil {
		p.add(Step{Verb: "clear", What: "packet filter rules of the guard", do: o.Clear})
	}
}

// leave returns the directories that are no longer needed, the innermost first, and forgets them.
func (s *state) leave() []string {
	needed := func(dir string) bool {
		return len(s.Files) > 0 && (strings.HasPrefix(daemonPath, dir+"/") || strings.HasPrefix(statePath, dir+"/"))
	}
	dirs := slices.DeleteFunc(slices.Clone(s.Dirs), needed)
	s.Dirs = slices.DeleteFunc(s.Dirs, func(dir string) bool { return !needed(dir) })
	slices.Reverse(dirs)
	return dirs
}

// directories plans to remove those that setup made, where nobody else uses them.
func (o Options) directories(p *Plan, dirs []string) {
	p.add(Step{Verb: "clean", do: func(context.Context) error {
		for _, d := range dirs {
			if err := o.remove(d); err != nil {
				return err
			}
		}
		return nil
	}})
}
