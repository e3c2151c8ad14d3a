package setup

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"taskrole/internal/config"
	"taskrole/internal/durable"
	"taskrole/internal/fault"
)

const (
	configPath = "/etc/taskrole/config.yaml"
	cdiDir     = "/etc/cdi"
	unit       = "taskrole.service"
	unitPath   = "/etc/systemd/system/" + unit
)

// The texts that are installed. The unit names the programs' directory as @BIN@.
var (
	//go:embed files/taskrole.service
	unitText string
	//go:embed files/tmpfiles.conf
	tmpfiles []byte
	//go:embed files/config.yaml
	firstConfig []byte
)

// The programs are copied side by side: taskrole looks for the agent beside itself, and the agent for the runtime.
const (
	commandLine = "taskrole"
	agent       = "taskrole-agent"
	ociRuntime  = "taskrole-runtime"
)

// wanted is one file as it should be.
type wanted struct {
	path string
	data []byte
	mode fs.FileMode
	once bool // only where there is none
}

// Install plans to set taskrole up.
func Install(o Options) (*Plan, error) {
	if !filepath.IsAbs(o.BinDir) || filepath.Clean(o.BinDir) != o.BinDir || strings.ContainsAny(o.BinDir, " \t\n\"'\\%$;") {
		return nil, fault.New(fault.Usage, fmt.Sprintf("%q cannot be the directory of the programs", o.BinDir), "name an absolute path without blanks and quotes")
	}
	files, err := o.files()
	if err != nil {
		return nil, err
	}
	s, err := o.load()
	if err != nil {
		return nil, err
	}
	// The state is written first, and knows by then what all the later steps will do.
	p := &Plan{}
	o.save(p, s)
	missing, err := o.parents(statePath)
	if err != nil {
		return nil, err
	}
	s.Dirs = union(s.Dirs, missing)
	if err := o.directory(p, s); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := o.install(p, s, f); err != nil {
			return nil, err
		}
	}
	docker, err := o.installDaemon(p, s)
	if err != nil {
		return nil, err
	}
	// What an earlier setup put elsewhere, when the programs had another directory.
	for _, f := range slices.Clone(s.Files) {
		if f.Path != daemonPath && !slices.ContainsFunc(files, func(w wanted) bool { return w.path == f.Path }) {
			if err := o.uninstall(p, s, f); err != nil {
				return nil, err
			}
		}
	}
	if changesFiles(p) {
		o.sweep(p, s)
	} else {
		p.Steps = p.Steps[1:] // nothing to remember
	}
	o.service(p)
	o.docker(p, docker)
	return p, nil
}

// changesFiles says whether there is more than the writing of the state.
func changesFiles(p *Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.do != nil && s.What != "" })
}

// files is everything but daemon.json.
func (o Options) files() ([]wanted, error) {
	var list []wanted
	for _, name := range []string{commandLine, agent, ociRuntime} {
		data, err := durable.ReadFile(filepath.Join(o.Programs, name), maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Wrap(err, fault.ProgramMissing, fmt.Sprintf("there is no %s in %s", name, o.Programs),
				"run setup from a directory with all three programs, as make build makes it")
		}
		if err != nil {
			return nil, fmt.Errorf("read the program to install: %w", err)
		}
		list = append(list, wanted{path: filepath.Join(o.BinDir, name), data: data, mode: 0o755})
	}
	list = append(list,
		wanted{path: configPath, data: firstConfig, mode: 0o644, once: true},
		wanted{path: unitPath, data: []byte(strings.ReplaceAll(unitText, "@BIN@", o.BinDir)), mode: 0o644},
		wanted{path: "/etc/tmpfiles.d/taskrole.conf", data: tmpfiles, mode: 0o644})
	for _, f := range o.Extra {
		list = append(list, wanted{path: filepath.Join(o.prefix(), f.Path), data: f.Data, mode: 0o644})
	}
	return list, nil
}

// directory plans the directory of CDI documents, which engines watch: it should be there before them.
func (o Options) directory(p *Plan, s *state) error {
	missing, err := o.parents(filepath.Join(cdiDir, "x"))
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		p.add(Step{Verb: "unchanged", What: cdiDir + "/"})
		return nil
	}
	s.Dirs = union(s.Dirs, missing)
	full, err := o.at(cdiDir)
	if err != nil {
		return err
	}
	p.add(Step{Verb: "create", What: cdiDir + "/", do: func(context.Context) error {
		return os.MkdirAll(full, 0o755) //nolint:gosec // engines of other users read it
	}})
	return nil
}

func union(a, b []string) []string {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}

func (o Options) install(p *Plan, s *state, w wanted) error {
	cur, err := o.look(w.path)
	if err != nil {
		return err
	}
	if cur.exists && (w.once || bytes.Equal(cur.data, w.data) && cur.mode == w.mode) {
		p.add(Step{Verb: "unchanged", What: w.path})
		return nil
	}
	f := s.find(w.path)
	if f == nil {
		f = &saved{Path: w.path, Original: s.keep(cur)}
	}
	f.Written = sum(w.data)
	note := ""
	if cur.exists && f.Original != nil && f.Original.Sum == sum(cur.data) {
		note = "what is there now is kept for --remove"
	}
	return o.write(p, s, *f, cur, found{exists: true, data: w.data, mode: w.mode, uid: -1, gid: -1}, note)
}

// write plans one file, and notes it in the state.
func (o Options) write(p *Plan, s *state, f saved, cur, next found, note string) error {
	missing, err := o.parents(f.Path)
	if err != nil {
		return err
	}
	s.Dirs = union(s.Dirs, missing)
	s.record(f)
	step := Step{Verb: "create", What: f.Path, Note: note, do: func(context.Context) error { return o.put(f.Path, next) }}
	if cur.exists {
		step.Verb = "change"
	}
	if (cur.exists || f.Path == daemonPath) && isText(cur.data) && isText(next.data) {
		step.Diff = difference(f.Path, cur.data, next.data)
	}
	p.add(step)
	return nil
}

func difference(path string, before, after []byte) string {
	text := string(diff.Diff(path, before, path, after))
	_, rest, _ := strings.Cut(text, "\n") // "diff OLD NEW"
	return rest
}

// installDaemon plans daemon.json, and says whether Docker has something to take up.
func (o Options) installDaemon(p *Plan, s *state) (changed bool, err error) {
	cur, err := o.look(daemonPath)
	if err != nil {
		return false, err
	}
	runtime := filepath.Join(o.BinDir, ociRuntime)
	data, edits, err := merge(cur.data, runtime, o.CDI)
	if err != nil {
		return false, err
	}
	if len(edits) == 0 {
		p.add(Step{Verb: "unchanged", What: daemonPath})
		return false, nil
	}
	base, f := cur, s.find(daemonPath)
	if f != nil && cur.exists {
		// An earlier setup's words are not what was there before.
		if base, err = o.before(s, *f, cur); err != nil {
			return false, err
		}
		if data, edits, err = merge(base.data, runtime, o.CDI); err != nil {
			return false, err
		}
	}
	next := found{exists: true, data: data, mode: 0o644, uid: -1, gid: -1}
	if cur.exists {
		next.mode, next.uid, next.gid = cur.mode, cur.uid, cur.gid
	}
	return true, o.write(p, s, saved{Path: daemonPath, Written: sum(data), Original: s.keep(base), Edits: edits}, cur, next, "")
}

// before is daemon.json without what setup put into it.
func (o Options) before(s *state, f saved, cur found) (found, error) {
	if sum(cur.data) == f.Written {
		if f.Original == nil {
			return found{}, nil
		}
		return o.content(s, f.Original)
	}
	data, _, err := undo(cur.data, f.Edits)
	cur.data = data
	return cur, err
}

// service plans what systemd has to be told.
func (o Options) service(p *Plan) {
	changed := slices.ContainsFunc(p.Steps, func(s Step) bool {
		return s.do != nil && (s.What == unitPath || strings.HasPrefix(s.What, o.BinDir+"/"))
	})
	cur, err := o.look(configPath)
	ready := err == nil && cur.exists && !bytes.Equal(cur.data, firstConfig)
	if ready {
		_, err := config.Parse(configPath, cur.data)
		ready = err == nil
	}
	if o.Command == nil {
		if o.Host {
			p.note("systemd does not run here: start the agent yourself, with %q", filepath.Join(o.BinDir, commandLine)+" agent")
		}
		return
	}
	if changed {
		o.command(p, "", "systemctl", "daemon-reload")
		o.command(p, "", "systemctl", "enable", unit)
	}
	switch {
	case ready && changed:
		o.command(p, "containers that run keep their roles; their requests are refused for a moment", "systemctl", "restart", unit)
	case ready:
	case cur.exists && !bytes.Equal(cur.data, firstConfig):
		p.note("%s cannot be used, so the agent was not started: \"taskrole config check\" says why; then: systemctl start taskrole", configPath)
	default:
		p.note("write your roles into %s, look at it with \"taskrole config check\", then: systemctl start taskrole", configPath)
	}
}

// docker plans, or names, what Docker has to be told.
func (o Options) docker(p *Plan, changed bool) {
	verb, gently := "reload", "try-reload-or-restart" // neither starts one that does not run
	if o.CDI {
		verb, gently = "restart", "try-restart" // a reload does not look at features.cdi
	}
	switch {
	case !changed || !o.Host:
	case o.RestartDocker && o.Command != nil:
		o.command(p, "", "systemctl", gently, "docker")
	default:
		p.note("Docker has not read its new daemon.json, and was left alone: systemctl %s docker", verb)
	}
}
