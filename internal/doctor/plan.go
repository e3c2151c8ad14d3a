package doctor

import (
	"context"
	"path"
	"strings"

	"taskrole/internal/address"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/diagnose"
	"taskrole/internal/engine/docker"
	"taskrole/internal/facts"
	"taskrole/internal/fault"
	"taskrole/internal/launch"
	"taskrole/internal/policy"
	"taskrole/internal/secret"
)

// planned is what docker run's arguments say.
type planned struct {
	facts.Plan

	container container.Container
	network   string
	runtime   string
	device    string // the role of a CDI device
}

// plan looks at a container that is not started yet.
func (d *doctor) plan(ctx context.Context) *Report {
	p := parsePlan(d.query.Image, d.query.Args)
	f := &diagnose.Facts{Subject: diagnose.Subject{Planned: true, Image: p.container.Image, Container: p.container.Name, Network: p.network}}
	d.image(ctx, f, &p)
	switch _, err := control.List(ctx, d.socket); fault.CodeOf(err) {
	case "":
		f.Role.Asked = diagnose.AgentUp
	case fault.AgentUnreachable:
		f.Role.Asked = diagnose.AgentDown
	default:
		d.unseen = append(d.unseen, "what the agent says: "+fault.As(err).What)
	}
	p.Role = d.role(f, &p)
	facts.Planned(p.Plan, f)
	if f.Role.Wanted == "" {
		f.Role.Wanted = f.Env["TASKROLE"].Text
	}
	if p.network == "none" {
		f.Net.Known = true
		cut := diagnose.Answer{URL: "the metadata service", Outcome: diagnose.Unreachable, Why: "with --network none there is no route"}
		f.IMDS = diagnose.IMDS{Token: cut, V1: cut}
	} else {
		d.unseen = append(d.unseen, "whether the metadata service answers on network "+p.network+": nothing is started")
	}
	return d.conclude(f)
}

// image asks the engine what the image brings.
func (d *doctor) image(ctx context.Context, f *diagnose.Facts, p *planned) {
	e, err := docker.New(d.docker)
	if d.docker == "" || err != nil {
		d.unseen = append(d.unseen, "what the image brings: no engine is configured")
		return
	}
	defer func() { _ = e.Close() }() // connections for asking only
	env, user, err := e.ImageEnv(ctx, p.container.Image)
	if err != nil {
		d.unseen = append(d.unseen, "what the image brings: "+fault.As(err).What)
		return
	}
	d.history(ctx, f, e, p.container.Image)
	p.Env = env
	if p.User == "" {
		p.User = user
	}
}

// role says which role the container would have, and returns the variables that come with it.
func (d *doctor) role(f *diagnose.Facts, p *planned) []secret.Value {
	f.Role.Wanted = p.device
	if f.Role.Wanted == "" && p.runtime == "taskrole" {
		f.Role.Wanted = p.given("TASKROLE")
	}
	if f.Role.Wanted == "" {
		f.Role.Wanted = p.container.Labels["taskrole"]
	}
	if f.Role.Wanted == "" {
		return nil
	}
	f.Role.Name = f.Role.Wanted // if it is allowed
	if d.cfg == nil {
		d.unseen = append(d.unseen, "whether the configuration allows the role: there is none that can be used")
		return []secret.Value{secret.New("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + address.CredentialsPath(f.Role.Wanted))}
	}
	role, err := d.cfg.Role(f.Role.Wanted)
	if err != nil {
		f.Role.Name, f.Role.Denied, f.Role.Trace = "", true, []string{"configuration: " + fault.As(err).What}
		return nil
	}
	if decision := policy.Decide(role.Allow, p.container); !decision.Allowed {
		f.Role.Name, f.Role.Denied, f.Role.Trace = "", true, decision.Trace
		return nil
	}
	f.Role.ARN = role.ARN.String()
	return injected(role)
}

// injected are the variables that a container of the role gets, as far as they matter here.
func injected(r config.Role) []secret.Value {
	env := []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + address.CredentialsPath(r.Name)}
	switch r.Inject {
	case config.InjectFull:
		env = []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + address.FullURI.String() + address.PodIdentityPath}
	case config.InjectPodIdentity:
		env = []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + address.PodIdentity.Addr().String() + address.PodIdentityPath}
	case config.InjectRelative:
	}
	if r.Region != "" {
		env = append(env, "AWS_REGION="+r.Region, "AWS_DEFAULT_REGION="+r.Region)
	}
	values := make([]secret.Value, 0, len(env))
	for _, kv := range env {
		values = append(values, secret.New(kv))
	}
	return values
}

// given is a variable of the command line that is no secret.
func (p planned) given(name string) string {
	f := &diagnose.Facts{}
	facts.Planned(facts.Plan{Given: p.Given, Files: p.Files}, f)
	return f.Env[name].Text
}

// parsePlan reads docker run's arguments.
func parsePlan(image string, args []string) planned {
	p := planned{network: "bridge", container: container.Container{Image: image, Known: true, Engine: "docker", Labels: map[string]string{}}}
	p.Mounts = map[string]string{}
	for _, w := range launch.Words(args) {
		switch w.Name {
		case "env":
			p.Given = append(p.Given, secret.New(w.Value))
		case "env-file":
			p.Files = append(p.Files, w.Value)
		case "network", "net":
			p.network = w.Value
		case "name":
			p.container.Name = w.Value
		case "user":
			p.User, _, _ = strings.Cut(w.Value, ":")
		case "label":
			k, v, _ := strings.Cut(w.Value, "=")
			p.container.Labels[k] = v
		case "runtime":
			p.runtime = w.Value
		case "device":
			if name, ok := strings.CutPrefix(w.Value, "taskrole/role="); ok {
				p.device = name
			}
		case "volume":
			if parts := strings.Split(w.Value, ":"); len(parts) > 1 && path.IsAbs(parts[0]) {
				p.Mounts[parts[1]] = parts[0]
			}
		case "mount":
			p.mount(w.Value)
		}
	}
	return p
}

// mount reads --mount type=bind,src=…,dst=….
func (p planned) mount(value string) {
	var source, inside string
	for part := range strings.SplitSeq(value, ",") {
		k, v, _ := strings.Cut(part, "=")
		switch k {
		case "src", "source":
			source = v
		case "dst", "destination", "target":
			inside = v
		}
	}
	if path.IsAbs(source) && path.IsAbs(inside) {
		p.Mounts[inside] = source
	}
}
