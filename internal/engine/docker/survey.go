package docker

import (
	"context"
	"fmt"

	"taskrole/internal/fault"
	"taskrole/internal/secret"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// Image is what an image says and how it was made. Both may hold what should never have been there.
type Image struct {
	ID      string
	Name    string         // a tag, or the short id
	Env     []secret.Value // KEY=VALUE
	History []secret.Value // the command of each layer
}

// Containers returns the ids of all containers, also of those that do not run. The error is a fault:
// engine-unreachable.
func (e *Engine) Containers(ctx context.Context) ([]string, error) {
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, e.silent(err, "its containers")
	}
	ids := make([]string, 0, len(list.Items))
	for _, c := range list.Items {
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// Images returns all images that containers can be made of. One that goes away meanwhile is left out. The error is a
// fault: engine-unreachable.
func (e *Engine) Images(ctx context.Context) ([]Image, error) {
	list, err := e.api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, e.silent(err, "its images")
	}
	images := make([]Image, 0, len(list.Items))
	for _, s := range list.Items {
		i := Image{ID: s.ID, Name: shortImage(s.ID)}
		if len(s.RepoTags) > 0 && s.RepoTags[0] != "<none>:<none>" {
			i.Name = s.RepoTags[0]
		}
		r, err := e.api.ImageInspect(ctx, s.ID)
		if err != nil {
			continue
		}
		if r.Config != nil {
			for _, kv := range r.Config.Env {
				i.Env = append(i.Env, secret.New(kv))
			}
		}
		if i.History, err = e.History(ctx, s.ID); err != nil {
			continue
		}
		images = append(images, i)
	}
	return images, ctx.Err()
}

// History returns the commands that an image's layers were made by, the last first. The error is a fault:
// engine-unreachable.
func (e *Engine) History(ctx context.Context, image string) ([]secret.Value, error) {
	h, err := e.api.ImageHistory(ctx, image)
	if err != nil {
		return nil, e.silent(err, "the history of an image")
	}
	commands := make([]secret.Value, 0, len(h.Items))
	for _, layer := range h.Items {
		commands = append(commands, secret.New(layer.CreatedBy))
	}
	return commands, nil
}

func (e *Engine) silent(err error, what string) error {
	return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not list %s", e.host, what),
		"check that it runs and that engines."+e.name+" in the configuration names its socket")
}

// shortImage is how docker images shows an id.
func shortImage(id string) string {
	const prefix, digits = len("sha256:"), 12
	if len(id) < prefix+digits {
		return id
	}
	return id[prefix : prefix+digits]
}

// ImageEnv returns the environment that an image brings, and its user. The error is a fault: not-found or
// engine-unreachable.
func (e *Engine) ImageEnv(ctx context.Context, ref string) (env []secret.Value, user string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := e.api.ImageInspect(ctx, ref)
	switch {
	case errdefs.IsNotFound(err):
		return nil, "", fault.Wrap(err, fault.NotFound, fmt.Sprintf("the engine at %s has no image %q", e.host, ref), "pull it, to have it looked at too")
	case err != nil:
		return nil, "", e.silent(err, "its images")
	case r.Config == nil:
		return nil, "", nil
	}
	for _, kv := range r.Config.Env {
		env = append(env, secret.New(kv))
	}
	return env, r.Config.User, nil
}
