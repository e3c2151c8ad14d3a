package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/engine/monitors"
	"taskrole/internal/fault"
)

// The engines, as people name them before a colon.
const (
	engineDocker     = "docker"
	enginePodman     = "podman"
	engineContainerd = monitors.Containerd
	engineOCI        = monitors.OCI
)

func engineNames() []string {
	return []string{engineDocker, enginePodman, engineContainerd, engineOCI}
}

// moby is containerd's namespace in which Docker has its containers.
const moby = "moby"

// askLimit bounds a question to an engine, so that there is time left to look at the container.
const askLimit = 1500 * time.Millisecond

// api is an engine that answers questions at a socket.
type api struct {
	name, host string
	said       bool // the configuration names it: then its silence is worth a word even if there is no socket
}

func (a api) open() (*docker.Engine, error) {
	open := docker.New
	if a.name == enginePodman {
		open = docker.NewPodman
	}
	e, err := open(a.host)
	if err != nil {
		return nil, fault.Wrap(err, fault.EngineUnreachable, "the address of "+a.name+" cannot be used", "correct engines."+a.name+" in the configuration")
	}
	return e, nil
}

// there says whether the engine is worth a question: it is configured, or its socket exists.
func (a api) there() bool {
	path, _ := strings.CutPrefix(a.host, "unix://")
	_, err := os.Stat(path)
	return a.host != "" && (a.said || err == nil)
}

// inspect asks the engine for a container.
func (a api) inspect(ctx context.Context, ref string) (docker.Inspected, error) {
	e, err := a.open()
	if err != nil {
		return docker.Inspected{}, err
	}
	defer func() { _ = e.Close() }() // connections for asking only
	return e.Inspect(ctx, ref)
}

// answers says why the engine does not answer.
func (a api) answers(ctx context.Context) error {
	e, err := a.open()
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }() // connections for asking only
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err = e.Containers(ctx)
	return err
}

// findEngines says where engines may be on this host. Without a configuration they are where they are by default.
func findEngines(cfg *config.Config) []api {
	dockerAt, podmanAt := api{engineDocker, config.DefaultDocker, false}, api{engineDocker, "", false}
	podmanAt.name = enginePodman
	for _, path := range podmanSockets() {
		if podmanAt.host = "unix://" + path; podmanAt.there() {
			break
		}
	}
	if cfg != nil {
		dockerAt.host, dockerAt.said = cfg.Docker, cfg.Docker != config.DefaultDocker
		if cfg.Podman != "" || cfg.NoPodman {
			podmanAt.host, podmanAt.said = cfg.Podman, true
		}
	}
	return slices.DeleteFunc([]api{dockerAt, podmanAt}, func(a api) bool { return !a.there() })
}

// podmanSockets are where Podman's own service listens: root's, or the user's.
func podmanSockets() []string {
	if uid := os.Geteuid(); uid != 0 {
		return []string{"/run/user/" + strconv.Itoa(uid) + "/podman/podman.sock"}
	}
	return []string{"/run/podman/podman.sock"}
}

// found is a container as one engine knows it.
type found struct {
	docker.Inspected

	engine    string
	namespace string // containerd's
	uid       int    // of the user whose own engine it is, if that is neither root nor who asks
	exact     bool   // its name or id is what was asked for, and not only begins like it
}

// ref is how this container is named beyond doubt.
func (f found) ref() string {
	if f.namespace != "" {
		return f.engine + ":" + f.namespace + "/" + string(f.ID)
	}
	if f.uid != 0 || f.Name == "" {
		return f.engine + ":" + f.ID.Short()
	}
	return f.engine + ":" + f.Name
}

// reference takes ENGINE:NAME apart. Names of containers hold no colon.
func reference(s string) (engine, name string, err error) {
	engine, name, ok := strings.Cut(s, ":")
	if !ok {
		return "", s, nil
	}
	if !slices.Contains(engineNames(), engine) || name == "" {
		return "", "", fault.New(fault.Usage, fmt.Sprintf("%q names no container", s), "write NAME, or one of docker:NAME, podman:NAME, containerd:[NAMESPACE/]ID, oci:ID")
	}
	return engine, name, nil
}

// search is what all engines together say of one name.
type search struct {
	mu    sync.Mutex // guards what follows
	found []found
	mute  []error // of engines that could not be asked
	asked []string
}

func (s *search) add(f ...found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, f...)
}

func (s *search) silent(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = append(s.mute, err)
}

// find asks every engine at the same time. The error is a fault: not-found, engine-unreachable, or usage where more than
// one container is meant.
func (d *doctor) find(ctx context.Context) (found, error) {
	engine, name, err := reference(d.query.Container)
	if err != nil {
		return found{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var s search
	var wg sync.WaitGroup
	for _, a := range d.engines {
		if (engine == "" || engine == a.name) && !strings.Contains(name, "/") { // which only containerd's names have
			s.asked = append(s.asked, a.name)
			wg.Go(func() { s.ask(ctx, a, name) })
		}
	}
	var watched []found
	wg.Go(func() { watched = s.watched(ctx, engine, name) })
	wg.Wait()
	for _, w := range watched { // what an engine has said itself is better
		if !slices.ContainsFunc(s.found, func(f found) bool { return f.ID == w.ID }) {
			s.found = append(s.found, w)
		}
	}
	if len(s.found) == 0 {
		s.found = byCgroup(ctx, engine, name)
	}
	one, err := s.one(d.query.Container)
	if err == nil {
		for _, m := range s.mute {
			d.unseen = append(d.unseen, "whether another engine has such a container too: "+fault.As(m).What)
		}
	}
	return one, err
}

func (s *search) ask(ctx context.Context, a api, name string) {
	i, err := a.inspect(ctx, name)
	switch {
	case err == nil:
		s.add(found{Inspected: i, engine: a.name, exact: i.Name == name || string(i.ID) == name})
	case fault.CodeOf(err) != fault.NotFound:
		s.silent(err)
	}
}

// watched are the containers of that name that a monitor watches over.
func (s *search) watched(ctx context.Context, engine, name string) (all []found) {
	list, err := monitors.Running(ctx)
	if err != nil {
		s.silent(err)
	}
	namespace, id, hasNamespace := strings.Cut(name, "/")
	for _, c := range list {
		f := fromMonitor(c)
		if engine != "" && engine != f.engine {
			continue
		}
		names := []string{string(c.ID), c.Name}
		switch {
		case slices.Contains(names, name), hasNamespace && namespace == c.Namespace && slices.Contains(names, id):
			f.exact = true
		case strings.HasPrefix(string(c.ID), name), hasNamespace && namespace == c.Namespace && strings.HasPrefix(string(c.ID), id):
		default:
			continue
		}
		all = append(all, f)
	}
	return all
}

// fromMonitor is what a monitor says, in an engine's words. Nobody vouches for it.
func fromMonitor(c monitors.Container) found {
	f := found{engine: c.Engine, namespace: c.Namespace}
	if c.UID != os.Geteuid() {
		f.uid = c.UID
	}
	if c.Namespace == moby {
		f.engine, f.namespace = engineDocker, ""
	}
	f.Inspected = docker.Inspected{Container: container.Container{ID: c.ID, Name: c.Name, Image: c.Image}, PID: c.PID, Status: "running"}
	if c.HostNet {
		f.Network = "host"
	}
	return f
}

// byCgroup looks for a container of an engine that we do not know, whose id is all there is.
func byCgroup(ctx context.Context, engine, name string) (all []found) {
	const enough = 6 // digits: of fewer, several begin alike by chance
	if engine != "" && engine != engineOCI || len(name) < enough {
		return nil
	}
	list, err := monitors.ByCgroup(ctx, name)
	if err != nil {
		return nil
	}
	for _, c := range list {
		all = append(all, fromMonitor(c))
	}
	return all
}

// one is the container that is meant: an exact name before the beginning of an id, root's before a user's, who may
// call anything by any name.
func (s *search) one(asked string) (found, error) {
	best := s.found
	for _, better := range []func(found) bool{func(f found) bool { return f.exact }, func(f found) bool { return f.uid == 0 }} {
		if slices.ContainsFunc(best, better) {
			best = slices.DeleteFunc(slices.Clone(best), func(f found) bool { return !better(f) })
		}
	}
	switch {
	case len(best) == 1:
		return best[0], nil
	case len(best) > 1:
		refs := make([]string, 0, len(best))
		for _, f := range best {
			refs = append(refs, f.ref())
		}
		slices.Sort(refs)
		return found{}, fault.New(fault.Usage, fmt.Sprintf("%d containers are called %q", len(best), asked), "say which: "+strings.Join(refs, ", "))
	case len(s.mute) > 0:
		return found{}, s.mute[0]
	}
	who := strings.Join(append(s.asked, "the processes that watch over containers"), ", ")
	return found{}, fault.Wrap(errNobody, fault.NotFound, fmt.Sprintf("nobody knows a container %q (asked: %s)", asked, who),
		`"docker ps --all", "podman ps --all" and "ctr --namespace NAMESPACE task ls" list what there is; "--pid" looks at any process`)
}

var errNobody = errors.New("nobody knows the container")
