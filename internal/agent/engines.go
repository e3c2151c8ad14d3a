package agent

import (
	"context"
	"errors"
	"io"

	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/engine/docker"
	"taskrole/internal/engine/podman"
	"taskrole/internal/taskmeta"
)

// engines are those that are asked who a container is, in this order. It implements taskmeta.Engine.
type engines []engine

// engine is one of them. For what a running container tells of itself, Podman answers as a Docker.
type engine struct {
	name string
	who  interface {
		Lookup(ctx context.Context, id container.ID) (container.Container, error)
	}
	what taskmeta.Engine
	all  []io.Closer
}

func openEngines(cfg *config.Config) (_ engines, d *docker.Engine, err error) {
	var list engines
	if cfg.Docker != "" {
		if d, err = docker.New(cfg.Docker); err != nil {
			return nil, nil, err
		}
		list = append(list, engine{"docker", d, d, []io.Closer{d}})
	}
	if cfg.Podman != "" {
		p, err := podman.New(cfg.Podman)
		if err != nil {
			return nil, nil, errors.Join(err, list.Close())
		}
		asDocker, err := docker.New(cfg.Podman)
		if err != nil {
			return nil, nil, errors.Join(err, list.Close())
		}
		list = append(list, engine{"podman", p, asDocker, []io.Closer{p, asDocker}})
	}
	return list, d, nil
}

// Lookup returns what the first engine says that knows the container. Where none does, it is an error only if one of
// them could not be asked: it might have known.
func (l engines) Lookup(ctx context.Context, id container.ID) (container.Container, error) {
	var failed error
	for _, e := range l {
		c, err := e.who.Lookup(ctx, id)
		if err == nil && c.Known {
			return c, nil
		}
		if failed == nil {
			failed = err
		}
	}
	return container.Container{ID: id}, failed
}

// Details implements taskmeta.Engine.
func (l engines) Details(ctx context.Context, id container.ID) (d container.Details, err error) {
	for _, e := range l {
		if d, err = e.what.Details(ctx, id); err == nil {
			return d, nil
		}
	}
	return d, err
}

// Stats implements taskmeta.Engine.
func (l engines) Stats(ctx context.Context, id container.ID) (b []byte, err error) {
	for _, e := range l {
		if b, err = e.what.Stats(ctx, id); err == nil {
			return b, nil
		}
	}
	return b, err
}

// Close frees the connections.
func (l engines) Close() error {
	var errs []error
	for _, e := range l {
		for _, c := range e.all {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
