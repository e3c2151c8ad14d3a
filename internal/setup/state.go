package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"taskrole/internal/durable"
	"taskrole/internal/fault"
)

const (
	libDir    = "/var/lib/taskrole"
	stateDir  = libDir + "/setup"
	statePath = stateDir + "/state.json"
	maxState  = 1 << 20
)

// state is what setup did to this tree. It is written before the first file is changed.
type state struct {
	Version int               `json:"version"`
	Files   []saved           `json:"files"`
	Dirs    []string          `json:"dirs"` // that were made, the outermost before what is in it
	kept    map[string][]byte // contents to keep, by their sum
}

// saved is one file.
type saved struct {
	Path     string    `json:"path"`
	Written  string    `json:"written"`            // sum of what setup put there
	Original *original `json:"original,omitempty"` // nil: nothing was there
	Edits    []edit    `json:"edits,omitempty"`    // of daemon.json
}

// original is a file as it was before setup. Its content is beside the state, under its sum.
type original struct {
	Sum  string      `json:"sum"`
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
}

func (o Options) load() (*state, error) {
	s := &state{Version: 1, kept: map[string][]byte{}}
	full, err := o.at(statePath)
	if err != nil {
		return nil, err
	}
	data, err := durable.ReadFile(full, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, looking(err, full)
	}
	if err := json.Unmarshal(data, s); err != nil || s.Version != 1 {
		return nil, fault.Wrap(err, fault.SetupConflict, fmt.Sprintf("%s cannot be read: it is broken, or of another release", full),
			"use the release that set taskrole up, or move the file away: what was there before setup is then not restored")
	}
	return s, nil
}

func (s *state) find(path string) *saved {
	i := slices.IndexFunc(s.Files, func(f saved) bool { return f.Path == path })
	if i < 0 {
		return nil
	}
	return &s.Files[i]
}

// record notes that a file is about to become data.
func (s *state) record(f saved) {
	if old := s.find(f.Path); old != nil {
		*old = f
		return
	}
	s.Files = append(s.Files, f)
}

func (s *state) forget(path string) {
	s.Files = slices.DeleteFunc(s.Files, func(f saved) bool { return f.Path == path })
}

// keep notes a file as it is now.
func (s *state) keep(f found) *original {
	if !f.exists {
		return nil
	}
	o := &original{Sum: sum(f.data), Mode: f.mode, UID: f.uid, GID: f.gid}
	s.kept[o.Sum] = f.data
	return o
}

// content returns an original's.
func (o Options) content(s *state, is *original) (found, error) {
	data, ok := s.kept[is.Sum]
	if !ok {
		full, err := o.at(filepath.Join(stateDir, is.Sum))
		if err != nil {
			return found{}, err
		}
		if data, err = durable.ReadFile(full, maxFile); err != nil {
			return found{}, fmt.Errorf("read what was there before setup: %w", err)
		}
		if sum(data) != is.Sum {
			return found{}, fault.New(fault.SetupConflict, full+" is not what setup kept there", "restore it from a backup, or remove the state of setup beside it")
		}
	}
	return found{exists: true, data: data, mode: is.Mode, uid: is.UID, gid: is.GID}, nil
}

// save plans to write the state; the step must come before those that change files. What it no longer needs goes.
func (o Options) save(p *Plan, s *state) {
	p.add(Step{Verb: "write", do: func(context.Context) error {
		full, err := o.at(statePath)
		if err != nil {
			return err
		}
		dir := filepath.Dir(full)
		if err := os.MkdirAll(dir, 0o700); err != nil { // daemon.json may hold the password of a proxy
			return err
		}
		for name, data := range s.kept {
			if err := durable.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				return err
			}
		}
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		return durable.WriteFile(full, append(data, '\n'), 0o600)
	}})
}

// sweep plans to remove contents that no file of the state needs, and the state itself where it has none.
func (o Options) sweep(p *Plan, s *state) {
	p.add(Step{Verb: "clean", do: func(context.Context) error {
		dir, err := o.at(stateDir)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var errs []error
		for _, e := range entries {
			needed := slices.ContainsFunc(s.Files, func(f saved) bool { return f.Original != nil && f.Original.Sum == e.Name() })
			if !needed && (e.Name() != filepath.Base(statePath) || len(s.Files) == 0) {
				errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
		if len(s.Files) == 0 {
			errs = append(errs, o.remove(stateDir), o.remove(libDir))
		}
		return errors.Join(errs...)
	}})
}
