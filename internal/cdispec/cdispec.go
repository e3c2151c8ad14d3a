// Package cdispec builds the CDI document that makes each role a device, taskrole/role=NAME, and reads it back.
//
// Engines read the document to learn what to put into a container; the runtime shim reads the same document, so that
// both ways in give the same environment and the same hook, and the shim needs to know no configuration. The package
// refuses to be general: it reads back only what it writes.
package cdispec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"taskrole/internal/address"
	"taskrole/internal/fault"
	"taskrole/internal/ociedit"
)

// What the document says of itself. Version 0.5.0 has all we use and is the newest that Podman 4.3 understands.
const (
	Kind     = "taskrole/role"
	Version  = "0.5.0"
	FileName = "taskrole.json" // in the CDI directory
)

// MaxSize bounds the document: some 1 kB a role.
const MaxSize = 8 << 20

// noProxy is what must never go through the proxy: the container's own loopback, and every address at which an SDK
// may ask for credentials. Literal, because Python understands no prefixes there; with and without brackets, because
// clients differ. Without it, clients that honour a proxy for http would ask the proxy for credentials.
const noProxy = "localhost,127.0.0.1,::1,169.254.169.254,169.254.170.2,169.254.170.23," +
	"[fd00:ec2::254],[fd00:ec2::23],fd00:ec2::254,fd00:ec2::23"

// hookName is the moment when the namespaces exist and the first process has not begun.
const hookName = "createRuntime"

// Role is what a container needs to know of its role.
type Role struct {
	Name string
	// FullURI is for AWS_CONTAINER_CREDENTIALS_FULL_URI; "" gives the container the relative one. Never both: the SDKs
	// do not agree which one wins.
	FullURI string
	// Token is for AWS_CONTAINER_AUTHORIZATION_TOKEN, or "". It is no secret to keep from the host: it opens nothing
	// but from inside a container of the role.
	Token string
	// TaskMetadata says that the container is told about itself as on ECS. Without it the variables must not be there:
	// collectors take their presence for ECS.
	TaskMetadata   bool
	Region         string // for AWS_REGION and AWS_DEFAULT_REGION; "" sets neither
	Proxy          bool   // the role has a way out: name the proxy for https
	ProxyPlainHTTP bool   // and for http too; only with Proxy
}

// HookCommand is the hook that each device brings.
type HookCommand struct {
	Path    string // of taskrole-runtime, absolute
	Socket  string // of the agent, absolute
	Timeout int    // seconds after which the runtime gives up on it; 0 for never
}

// The parts of the CDI specification that we use, under its own names.
type (
	document struct {
		Version string   `json:"cdiVersion"`
		Kind    string   `json:"kind"`
		Devices []device `json:"devices"`
	}
	device struct {
		Name  string         `json:"name"`
		Edits containerEdits `json:"containerEdits"`
	}
	containerEdits struct {
		Env   []string `json:"env,omitempty"`
		Hooks []hook   `json:"hooks,omitempty"`
	}
	hook struct {
		Name    string   `json:"hookName"`
		Path    string   `json:"path"`
		Args    []string `json:"args,omitempty"`
		Env     []string `json:"env,omitempty"`
		Timeout int      `json:"timeout,omitempty"`
	}
)

// Build writes the document, roles in the order given. There must be one role at least: engines refuse a document
// without devices.
func Build(roles []Role, command HookCommand) ([]byte, error) {
	if len(roles) == 0 {
		return nil, errors.New("build the CDI document: there are no roles")
	}
	if !strings.HasPrefix(command.Path, "/") || !strings.HasPrefix(command.Socket, "/") {
		return nil, fmt.Errorf("build the CDI document: hook %q and socket %q must be absolute paths", command.Path, command.Socket)
	}
	doc := document{Version: Version, Kind: Kind}
	for _, r := range roles {
		doc.Devices = append(doc.Devices, device{
			Name: r.Name,
			Edits: containerEdits{
				Env: environment(r),
				Hooks: []hook{{
					Name:    hookName,
					Path:    command.Path,
					Args:    []string{"taskrole-runtime", "hook", "--role", r.Name, "--socket", command.Socket},
					Timeout: command.Timeout,
				}},
			},
		})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("build the CDI document: %w", err)
	}
	return b.Bytes(), nil
}

// environment is what a container of the role gets. The relative URI is the one variable that every SDK since 2016
// knows, so it is the one that roles have by default; the region goes into two variables because no SDK reads only the same one as all the others.
func environment(r Role) []string {
	var env []string
	if r.FullURI == "" {
		env = append(env, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="+address.CredentialsPath(r.Name))
	} else {
		env = append(env, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+r.FullURI)
	}
	if r.Token != "" {
		env = append(env, "AWS_CONTAINER_AUTHORIZATION_TOKEN="+r.Token)
	}
	if r.TaskMetadata {
		v4, v3 := address.TaskMetadata(r.Name)
		env = append(env, "ECS_CONTAINER_METADATA_URI_V4="+v4, "ECS_CONTAINER_METADATA_URI="+v3)
	}
	if r.Region != "" {
		env = append(env, "AWS_REGION="+r.Region, "AWS_DEFAULT_REGION="+r.Region)
	}
	if !r.Proxy {
		return env
	}
	proxy := "http://" + address.Proxy.String()
	env = append(env, "HTTPS_PROXY="+proxy, "https_proxy="+proxy)
	if r.ProxyPlainHTTP {
		env = append(env, "HTTP_PROXY="+proxy, "http_proxy="+proxy)
	}
	return append(env, "NO_PROXY="+noProxy, "no_proxy="+noProxy)
}

// Device returns the edits of one device of a document that Build made. An unknown name is a fault role-unknown that
// names the devices there are. A document with anything in it that Build does not write is an error: the shim would
// silently leave it out.
func Device(spec []byte, name string) (ociedit.Edits, error) {
	doc, err := parse(spec)
	if err != nil {
		return ociedit.Edits{}, fmt.Errorf("read the CDI document: %w", err)
	}
	var names []string
	for _, d := range doc.Devices {
		if d.Name == name {
			return d.Edits.edits()
		}
		names = append(names, d.Name)
	}
	return ociedit.Edits{}, fault.New(fault.RoleUnknown, "no role is called "+quote(name), "the roles are "+some(names))
}

func parse(spec []byte) (document, error) {
	var doc document
	if len(spec) > MaxSize {
		return doc, fmt.Errorf("it has %d bytes, and at most %d are allowed", len(spec), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(spec))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return doc, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return doc, errors.New("something follows it")
	}
	if doc.Kind != Kind || doc.Version != Version {
		return doc, fmt.Errorf("it is of kind %s, version %s, not %s, %s: taskrole did not write it",
			quote(doc.Kind), quote(doc.Version), Kind, Version)
	}
	return doc, nil
}

func (c containerEdits) edits() (ociedit.Edits, error) {
	e := ociedit.Edits{Env: c.Env}
	for _, h := range c.Hooks {
		if h.Name != hookName {
			return ociedit.Edits{}, fmt.Errorf("read the CDI document: it has a hook %s, not %s", quote(h.Name), hookName)
		}
		e.Hooks = append(e.Hooks, ociedit.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
	}
	// A device that changes nothing would start the container without a role.
	if len(e.Env) == 0 || len(e.Hooks) == 0 {
		return ociedit.Edits{}, errors.New("read the CDI document: the device has no environment or no hook")
	}
	return e, nil
}

// some lists names, not more than fit a message.
func some(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// quote shows text of others without letting it fill the line.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
