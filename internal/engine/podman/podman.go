// Package podman asks a Podman service what it knows of a container: its name, its image and its labels.
//
// It asks for the container's events, and not for the container: Podman's list, Docker's and its own, waits for the
// lock that a start holds while the container's hook runs, and answers only when the hook has given up (seen with
// Podman 5.8). Events hold name, image and labels as they were when something last happened to the container, of
// which its creation is the first; they are read from a log, under no lock. A container whose events are gone, for
// instance because the log was in memory and the host has restarted since, is not known.
//
// It changes nothing in Podman, and refuses to pass on what an image says of itself: a label that any image here has
// with the same value is nobody's word. What a running container is asked of Podman's Docker API is package docker's.
package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

const (
	// timeout bounds one question, which a container's start waits for; 1 to 9 ms were measured.
	timeout = 3 * time.Second
	// recent is how far back events are asked for first: a journal of months takes long to read.
	recent = time.Hour
	// maxAnswer bounds what is read. Podman's own log of events is turned over at 1 MB.
	maxAnswer = 8 << 20
)

// Engine is a Podman service.
type Engine struct {
	host string
	http *http.Client
}

// New returns the service at host, such as unix:///run/podman/podman.sock. It does not connect yet: the service may
// start after the agent, and with socket activation does so when it is asked.
func New(host string) (*Engine, error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, fmt.Errorf("engine at %q: %w", host, errNoSocket)
	}
	return &Engine{host: host, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}}, nil
}

var errNoSocket = errors.New("not the address of a unix socket")

// Lookup returns the container with exactly this id. Without an error, Known says whether Podman has it. Otherwise the
// error is a fault: engine-unreachable.
func (e *Engine) Lookup(ctx context.Context, id container.ID) (container.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, since := range []string{time.Now().Add(-recent).UTC().Format(time.RFC3339), ""} {
		last, err := e.lastEvent(ctx, id, since)
		if err != nil {
			return container.Container{ID: id}, e.mute(err, id)
		}
		if last == nil {
			continue
		}
		c := container.Container{ID: id, Known: true, Engine: "podman", Name: last["name"], Image: last["image"]}
		if c.Labels, err = e.given(ctx, last); err != nil {
			return container.Container{ID: id}, e.mute(err, id)
		}
		return c, nil
	}
	return container.Container{ID: id}, nil
}

func (e *Engine) mute(err error, id container.ID) error {
	return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not say what container %s is", e.host, id.Short()),
		"check that podman.socket is active and that engines.podman in the configuration names it")
}

// event is what we need of one line of the answer.
type event struct {
	Type  string
	Actor struct {
		ID         string
		Attributes map[string]string
	}
}

// lastEvent returns the attributes of the newest event of the container, or nil where there is none.
func (e *Engine) lastEvent(ctx context.Context, id container.ID, since string) (map[string]string, error) {
	filters, err := json.Marshal(map[string][]string{"container": {string(id)}, "type": {"container"}})
	if err != nil {
		return nil, err
	}
	query := url.Values{"stream": {"false"}, "filters": {string(filters)}}
	if since != "" {
		query.Set("since", since)
	}
	var last map[string]string
	err = e.get(ctx, "/v4.0.0/libpod/events?"+query.Encode(), func(d *json.Decoder) error {
		for {
			var ev event
			if err := d.Decode(&ev); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			// The filter matches the beginning of an id, and names.
			if ev.Type == "container" && ev.Actor.ID == string(id) && ev.Actor.Attributes["name"] != "" {
				last = ev.Actor.Attributes
			}
		}
	})
	return last, err
}

// own are the attributes that are Podman's, and would hide a label of the same name.
func own(attribute string) bool {
	switch attribute {
	case "id", "image", "name", "podId", "containerExitCode", "execID", "health_status", "health_failing_streak", "health_log", "network":
		return true
	}
	return false
}

// given returns the labels that the container was given when it was made. Events mix them with those of the image, and
// do not tell which image that was, as names move; so what any image has counts as the image's.
func (e *Engine) given(ctx context.Context, attributes map[string]string) (map[string]string, error) {
	labels := map[string]string{}
	for key, value := range attributes {
		if !own(key) {
			labels[key] = value
		}
	}
	if len(labels) == 0 {
		return nil, nil //nolint:nilnil // none is no error
	}
	var images []struct{ Labels map[string]string }
	err := e.get(ctx, "/v4.0.0/libpod/images/json?all=true", func(d *json.Decoder) error { return d.Decode(&images) })
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		for key, value := range image.Labels {
			if v, ok := labels[key]; ok && v == value {
				delete(labels, key)
			}
		}
	}
	return labels, nil
}

// get asks and reads the answer.
func (e *Engine) get(ctx context.Context, path string, read func(*json.Decoder) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman"+path, nil)
	if err != nil {
		return err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it is wanted
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("podman answers %s", resp.Status)
	}
	bounded := &io.LimitedReader{R: resp.Body, N: maxAnswer}
	if err := read(json.NewDecoder(bounded)); err != nil {
		return fmt.Errorf("read podman's answer: %w", err)
	}
	if bounded.N <= 0 {
		return errors.New("podman's answer is too long")
	}
	return nil
}

// Close frees the connections.
func (e *Engine) Close() error {
	e.http.CloseIdleConnections()
	return nil
}
