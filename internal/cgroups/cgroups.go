// Package cgroups finds the cgroups that are containers, of whatever engine, and tells of each as it appears.
//
// An engine makes a container's cgroup some ten milliseconds before it starts the container's first process, and names
// it after the container's id. So the tree of version 2 itself says what is a container, also for engines that nobody
// configured. The package refuses to look inside a container, where names are whatever its processes choose, and never
// takes for a container what it is itself in. It is the one door to fsnotify.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// Cgroup is a cgroup that is a container, or one in which all are.
type Cgroup struct {
	Path      string // from the root of the tree, as /docker/…
	Container string // the container's id; "" where what is below is containers
}

// idRE is an id as Docker, Podman, containerd under Kubernetes or nerdctl, and CRI-O make it. Around it are words of the
// engine: docker-ID.scope, libpod-ID, cri-containerd-ID.scope.
var idRE = regexp.MustCompile(`(?:^|[^0-9a-f])([0-9a-f]{64})(?:$|[^0-9a-f])`)

// places are cgroups with nothing but containers and virtual machines below them. What is below one is known to be no
// process of the host before the container itself is found, and whatever its name is. Those of systemd have no such
// place: there, containers are beside the host's services.
var places = []string{"docker", "kubepods", "kubepods.slice", "libpod_parent", "lxc", "machine.slice", "moby"}

// placesAtRoot are namespaces of containerd, whose names say little elsewhere.
var placesAtRoot = []string{"/default", "/k8s.io", "/nerdctl"}

// classify says what the cgroup at p is, if it is anything. own is the cgroup this process is in.
func classify(p, own string) (Cgroup, bool) {
	if own == p || strings.HasPrefix(own, p+"/") {
		return Cgroup{}, false
	}
	name := path.Base(p)
	if m := idRE.FindStringSubmatch(name); m != nil {
		return Cgroup{p, m[1]}, true
	}
	return Cgroup{Path: p}, slices.Contains(places, name) || slices.Contains(placesAtRoot, p)
}

// errOverflow means that more happened than could be told.
var errOverflow = errors.New("more cgroups came and went than the kernel remembers")

// tree is what is known of the hierarchy.
type tree struct {
	mount, own string
	watcher    *fsnotify.Watcher
	found      map[uint64]Cgroup // by id
	ids        map[string]uint64 // by path
	dirty      bool              // something of it changed
}

// Own is the path of the cgroup this process is in, "" where the host has none of version 2.
func Own() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path.Clean("/" + p), nil
		}
	}
	return "", nil
}

// Scan looks through the tree once.
func Scan(mount, own string) (map[uint64]Cgroup, error) {
	t := newTree(mount, own)
	err := t.enter("/")
	return t.found, err
}

func newTree(mount, own string) *tree {
	return &tree{mount: mount, own: own, found: map[uint64]Cgroup{}, ids: map[string]uint64{}}
}

// Watch tells changed of all containers' cgroups, by id: once when it has looked through the tree, and after every
// change. own is the cgroup of this process, as /proc/self/cgroup has it. It returns nil when ctx ends, and an error
// when it cannot go on; then it must be called again.
func Watch(ctx context.Context, mount, own string, changed func(map[uint64]Cgroup)) error {
	w, err := fsnotify.NewBufferedWatcher(buffered)
	if err != nil {
		return fmt.Errorf("watch cgroups: %w", err)
	}
	t := newTree(mount, own)
	t.watcher = w
	err = t.watch(ctx, changed)
	return errors.Join(err, w.Close())
}

// buffered is how many changes may wait here while one is being told of. The kernel keeps 16384 more.
const buffered = 1024

func (t *tree) watch(ctx context.Context, changed func(map[uint64]Cgroup)) error {
	if err := t.enter("/"); err != nil {
		return err
	}
	changed(maps.Clone(t.found))
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-t.watcher.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				err = errOverflow
			}
			return fmt.Errorf("watch cgroups: %w", err)
		case e := <-t.watcher.Events:
			t.dirty = false
			if err := t.event(e); err != nil {
				return err
			}
			if t.dirty {
				changed(maps.Clone(t.found))
			}
		}
	}
}

func (t *tree) event(e fsnotify.Event) error {
	p, ok := strings.CutPrefix(e.Name, t.mount)
	if !ok || p == "" {
		return nil
	}
	switch {
	case e.Has(fsnotify.Create):
		return t.meet(p)
	case e.Has(fsnotify.Remove):
		if id, known := t.ids[p]; known {
			delete(t.found, id)
			delete(t.ids, p)
			t.dirty = true
		}
	}
	return nil
}

// meet looks at something new.
func (t *tree) meet(p string) error {
	info, err := os.Lstat(filepath.Join(t.mount, p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went again
	}
	if err != nil {
		return fmt.Errorf("look at a cgroup: %w", err)
	}
	if !info.IsDir() {
		return nil
	}
	c, is := classify(p, t.own)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && is {
		if old, known := t.ids[p]; known { // it was made anew, and nobody told of its end
			delete(t.found, old)
		}
		t.found[st.Ino], t.ids[p] = c, st.Ino
		t.dirty = true
	}
	if c.Container != "" {
		return nil
	}
	return t.enter(p)
}

// enter watches a cgroup and meets what is in it already. It watches first, so that nothing is missed between.
func (t *tree) enter(p string) error {
	dir := filepath.Join(t.mount, p)
	var err error
	if t.watcher != nil {
		err = t.watcher.Add(dir)
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) && p != "/" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch cgroup %s: %w", p, err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := t.meet(path.Join(p, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
