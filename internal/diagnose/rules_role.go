package diagnose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// fault codes of the agent that a message about a container may end in.
const (
	codeDenied   = "role-not-allowed"
	codeUnknown  = "role-unknown"
	codeSTS      = "sts-denied"
	codeIdentity = "host-identity-missing"
	codeAgent    = "agent-unreachable"
	codePort     = "port-taken"
	codeSilent   = "sts-unreachable"
	codeExpired  = "credentials-expired"
)

// stopped says whether the engine's message about the container holds one of the agent's codes.
func (f *Facts) stopped(codes ...string) string {
	for _, text := range []string{f.Subject.Stopped, f.Role.Problem, f.Container.Code + ": " + f.Container.Message + " [" + f.Container.Code + "]"} {
		for _, c := range codes {
			if strings.Contains(text, "["+c+"]") {
				return ours(text)
			}
		}
	}
	return ""
}

// ours is what the agent said, without the engine's words before it.
func ours(text string) string {
	const name = "taskrole: "
	if i := strings.LastIndex(text, name); i >= 0 {
		return strings.TrimSpace(text[i+len(name):])
	}
	return text
}

func agentDown(f *Facts) *Finding {
	x := &Finding{
		Severity: Error, What: "the taskrole agent does not run: containers with a role get no credentials, and none can start",
		Fix: "start it, and look at its log if it does not stay", Commands: []string{"systemctl start taskrole", "journalctl -u taskrole -n 50"},
	}
	switch {
	case f.stopped(codeAgent) != "":
		x.Evidence = []string{"the engine: " + f.stopped(codeAgent)}
	case f.Role.Asked != AgentDown:
		return nil
	case f.Subject.PID == 0 && f.Host.Looked:
		x.Evidence = []string{"nobody answers at the control socket"}
	case len(f.Net.OnLo) > 0 && (f.Container.Outcome == Refused || f.IMDS.Token.Outcome == Refused):
		x.Evidence = []string{"nobody answers at the control socket", strings.Join(f.Net.OnLo, ", ") + " are in the namespace, and nobody listens there"}
	case f.Role.Wanted != "" && f.Container.Outcome != Answered:
		x.Evidence = []string{"nobody answers at the control socket", "the container asks for the role " + f.Role.Wanted}
	default:
		return nil
	}
	return x
}

func configInvalid(f *Facts) *Finding {
	if f.Host.ConfigError == "" {
		return nil
	}
	what, fix := "the configuration cannot be used", "correct what is named, each with its line"
	if strings.Contains(f.Host.ConfigError, "there is no such file") {
		what, fix = "there is no configuration, so that no container can have a role", "write it as examples/config.yaml shows it, or name another file with --config"
	}
	return &Finding{
		Severity: Error, What: what, Evidence: strings.Split(f.Host.ConfigError, "\n"),
		Fix: fix, Commands: []string{"taskrole config check " + quote(f.Host.ConfigPath)},
	}
}

func roleRefused(f *Facts) *Finding {
	text := f.stopped(codeDenied, codeUnknown)
	if text == "" && !f.Role.Denied {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "the configuration does not give this container the role " + f.Role.Wanted,
		Fix:      "add a rule to the role's allow list, or start the container under a name, image or label that has one",
		Commands: []string{"taskrole config check " + quote(f.configPath()) + " && systemctl reload taskrole"},
	}
	if f.Subject.Container != "" && f.Role.Wanted != "" {
		x.Paste = []Paste{{
			Where: "into " + f.configPath(),
			Text:  "roles:\n  " + f.Role.Wanted + ":\n    allow:\n      - name: " + yaml(f.Subject.Container),
		}}
	}
	if strings.Contains(text, codeUnknown) {
		x.Paste = nil
		x.What = "there is no role " + f.Role.Wanted + " in the configuration"
		x.Fix = "name a role that is there, or add it"
	}
	if text != "" {
		x.Evidence = append(x.Evidence, "refused with: "+text)
	}
	x.Evidence = append(x.Evidence, f.Role.Trace...)
	return x
}

func startRefused(f *Facts) *Finding {
	s := f.Subject.Stopped
	if s == "" || !strings.Contains(s, "taskrole") {
		return nil
	}
	return &Finding{
		Severity: Error, What: "the container was not started, because it could not be given its role", Evidence: []string{"refused with: " + ours(s)},
		Fix: "do what the message says; doc/errors.md explains its code", Commands: []string{"journalctl -u taskrole -n 50"},
	}
}

// portConflict: without sk_lookup our listener takes port 80 of its addresses, which an application that has it of all
// addresses does not leave.
func portConflict(f *Facts) *Finding {
	text := f.stopped(codePort)
	if text == "" {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "an application has port 80 of all addresses, which this kernel cannot share with the role's endpoint",
		Evidence: []string{"refused with: " + text}, Fix: "let the application listen on another port or at one address, or use Linux 5.9 or newer",
		Commands: []string{"uname -r", fmt.Sprintf("nsenter -t %s -n ss -ltnp 'sport = :80'", f.pid())},
	}
	if f.Host.SkLookup != "" {
		x.Evidence = append(x.Evidence, "kernel: "+f.Host.SkLookup)
	}
	if f.Net.Port80 {
		x.Evidence = append(x.Evidence, "a socket of the namespace listens on port 80 of every address")
	}
	return x
}

func roleNotAttached(f *Facts) *Finding {
	if f.Role.Asked != AgentUp && !f.Subject.Planned || f.Role.Name != "" || f.Role.Wanted == "" || f.Subject.NotRunning || f.Role.Denied {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "the container asks for the role " + f.Role.Wanted + " and does not have it",
		Evidence: []string{f.absence()},
		Fix:      "make the container again: a role comes with the device or the runtime, not with the variable alone",
		Commands: []string{f.cli() + " run --device " + quote("taskrole/role="+f.Role.Wanted) + " " + f.image(), f.cli() + " run --runtime taskrole -e " + quote("TASKROLE="+f.Role.Wanted) + " " + f.image()},
	}
	switch {
	case f.Role.Problem != "":
		x.Evidence = append(x.Evidence, "the agent refused it: "+f.Role.Problem)
		x.Fix, x.Commands = "do what the message says; doc/errors.md explains its code", []string{"taskrole ps", "journalctl -u taskrole -n 50"}
	case f.has(envTaskrole):
		x.Evidence = append(x.Evidence, "environment: TASKROLE="+f.text(envTaskrole))
	case f.has(envRelative):
		x.Evidence = append(x.Evidence, "environment: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="+f.text(envRelative))
	}
	return x
}

// configPath is the file of the agent's configuration.
func (f *Facts) configPath() string { return cmp.Or(f.Host.ConfigPath, "/etc/taskrole/config.yaml") }

// absence is what says that the container has no role.
func (f *Facts) absence() string {
	if f.Subject.Planned {
		return "the arguments have neither --device taskrole/role nor --runtime taskrole"
	}
	return "the agent does not list this container"
}

func addressesMissing(f *Facts) *Finding {
	if f.Role.Name == "" || len(f.Role.Missing) == 0 && f.Role.Gone == "" && !f.silentRole() {
		return nil
	}
	x := &Finding{
		Severity: Error, What: "the agent counts the container as served, and its endpoint is not in the namespace",
		Fix: "restart the container; if it happens again, look at who removes addresses in it", Commands: []string{f.cli() + " restart " + f.name(), "taskrole ps"},
	}
	for _, a := range f.Role.Missing {
		x.Evidence = append(x.Evidence, a+" is not on a device of the namespace")
	}
	if f.Role.Gone != "" {
		x.Evidence = append(x.Evidence, "the agent misses "+f.Role.Gone)
	}
	if f.silentRole() {
		x.Evidence = append(x.Evidence, f.Container.says())
	}
	return x
}

// silentRole says that nobody answers where the agent should.
func (f *Facts) silentRole() bool {
	return slices.Contains([]Outcome{Refused, Unreachable, Silent, Dropped}, f.Container.Outcome)
}

func endpointForeign(f *Facts) *Finding {
	a := f.Container
	if a.Outcome != Answered || a.Taskrole {
		return nil
	}
	odd := a.OK() && !a.Doc.JSON
	switch {
	case f.Role.Name != "" && !a.OK():
	case f.Role.Name == "" && f.Role.Wanted != "" && f.Role.Asked == AgentUp && !a.OK():
	case odd:
	default:
		return nil
	}
	return &Finding{
		Severity: Error, What: "something else answers where the container's credentials should be",
		Evidence: []string{a.says()}, Fix: "find what listens there, and end it",
		Commands: []string{fmt.Sprintf("nsenter -t %s -n ss -ltnp", f.pid())},
	}
}

// roleHere says that a role is offered to the process, and where.
func (f *Facts) roleHere() string {
	switch {
	case f.Role.Name != "":
		return "taskrole serves the role " + f.Role.Name
	case f.Container.OK() && f.Container.Doc.complete():
		return f.Container.URL + " serves " + f.Container.Doc.RoleARN
	case f.Role.Wanted != "" && len(f.Net.OnLo) > 0: // the agent is away and cannot say so
		return "the container asks for the role " + f.Role.Wanted + ", and its addresses are here"
	}
	return ""
}

func keysShadow(f *Facts) *Finding {
	hit := which(f, func(l look) bool { return ChainOf(f, l.sdk).Source == FromEnv })
	if f.roleHere() == "" || len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "keys in the environment win over the container's role",
		Evidence: []string{"environment: AWS_ACCESS_KEY_ID is " + f.Env[envKey].Masked, f.roleHere()}, Affects: hit,
		Fix: "take the keys out of the container's environment", Commands: f.unset(envKey, envSecret, envSession),
	}
}

func fileShadows(f *Facts) *Finding {
	hit := which(f, func(l look) bool {
		s := ChainOf(f, l.sdk).Source
		return s == FromFile || s == FromTool
	})
	if f.roleHere() == "" || len(hit) == 0 {
		return nil
	}
	x := &Finding{
		Severity: Warning, What: "a file with credentials wins over the container's role",
		Evidence: []string{f.roleHere()}, Affects: hit, Fix: "take the file out of the image or the mount",
		Commands: f.mounts(f.Credentials.Path),
	}
	for _, s := range ChainOf(f, hit[0]).Steps {
		if s.Verdict == Wins {
			x.Evidence = append(x.Evidence, s.Why)
		}
	}
	return x
}

func bothURIs(f *Facts) *Finding {
	if !f.has(envRelative) || !f.has(envFull) || f.pair() {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "both URI variables are set: Go v1 uses the full one, all others the relative one",
		Evidence: []string{"environment: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + f.text(envRelative), "environment: AWS_CONTAINER_CREDENTIALS_FULL_URI=" + f.text(envFull)},
		Fix:      "set exactly one", Commands: f.unset(envFull),
	}
}

func keysLongLived(f *Facts) *Finding {
	if !f.pair() || f.Env[envKey].Kind != LongLived {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "the environment holds the long-lived key " + f.Env[envKey].Masked + " of an IAM user, which never expires",
		Evidence: []string{"environment: AWS_ACCESS_KEY_ID begins with AKIA", "docker inspect shows its secret to everybody who may ask the engine"},
		Fix:      "use a role, and delete the key", Commands: append(f.instead(), "aws iam update-access-key --access-key-id KEY --status Inactive"),
	}
}

func fileLongLived(f *Facts) *Finding {
	x := &Finding{
		Severity: Warning, What: "a file holds the long-lived key of an IAM user, which never expires",
		Fix: "use a role, and delete the key", Commands: append(f.instead(), "aws iam update-access-key --access-key-id KEY --status Inactive"),
	}
	for _, file := range []File{f.Credentials, f.Config, f.HomeFile} {
		for name, p := range file.Profiles {
			if p.Kind == LongLived && p.Secret {
				x.Evidence = append(x.Evidence, fmt.Sprintf("%s: profile %q has %s", file.Path, name, p.Masked))
			}
		}
	}
	if len(x.Evidence) == 0 {
		return nil
	}
	slices.Sort(x.Evidence)
	x.Evidence = slices.Compact(x.Evidence) // one file may be two of them
	return x
}

func imageLongLived(f *Facts) *Finding {
	image := f.image()
	x := &Finding{
		Severity: Warning, What: "the image's history holds the long-lived key of an IAM user, for everybody who can pull it",
		Fix:      "delete the key in IAM, and build the image without it: deleting it in a later layer hides nothing",
		Commands: []string{f.cli() + " history --no-trunc " + image, "aws iam update-access-key --access-key-id KEY --status Inactive"},
	}
	for _, k := range f.ImageKeys {
		if k.Kind == LongLived {
			x.Evidence = append(x.Evidence, fmt.Sprintf("history of %s, layer %d from the top: %s", image, k.Layer, k.Masked))
		}
	}
	if len(x.Evidence) == 0 {
		return nil
	}
	return x
}

func regionMissing(f *Facts) *Finding {
	hit := which(f, func(l look) bool {
		return l.noRegion != "" && l.region() == "" && ChainOf(f, l.sdk).Source != FromNowhere && !(l.imdsRegion && f.IMDS.Token.Outcome == Answered)
	})
	if len(hit) == 0 {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "there are credentials and no region for " + list(hit),
		Evidence: []string{"environment: AWS_REGION is " + f.shown("AWS_REGION") + ", AWS_DEFAULT_REGION is " + f.shown("AWS_DEFAULT_REGION"), hit[0].Title() + ": " + specs[hit[0]].noRegion},
		Affects:  hit, Fix: "set both variables: no SDK reads the same one as all others", Commands: []string{f.cli() + " run -e AWS_REGION=REGION -e AWS_DEFAULT_REGION=REGION " + f.image()},
	}
}

// shown is a variable that is no secret, or how it is not there.
func (f *Facts) shown(name string) string {
	if f.has(name) {
		return f.text(name)
	}
	return f.lack(name)
}

func oldKernel(f *Facts) *Finding {
	if !f.Host.Looked || f.Host.SkLookup == "" || !f.Host.Root || f.Subject.PID != 0 {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "this kernel cannot steer addresses to the agent's listener",
		Evidence: []string{"kernel: " + f.Host.SkLookup}, Fix: "use Linux 5.9 or newer", Commands: []string{"uname -r"},
	}
}

func oldCgroup(f *Facts) *Finding {
	if !f.Host.Looked || f.Host.Cgroup != "v1" || f.Subject.PID != 0 {
		return nil
	}
	return &Finding{
		Severity: Note, What: "this host has cgroup v1 only: processes that share a container's network namespace cannot be told from it",
		Evidence: []string{"no cgroup v2 hierarchy is mounted"}, Fix: "boot with the unified hierarchy",
		Commands: []string{"grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"},
	}
}

func engineSilent(f *Facts) *Finding {
	if !f.Host.Looked || f.Host.Engine == "" || f.Subject.PID != 0 {
		return nil
	}
	return &Finding{
		Severity: Warning, What: "the container engine does not answer", Evidence: []string{f.Host.Engine},
		Fix: "start it, or correct engines.docker in the configuration", Commands: []string{"systemctl status docker"},
	}
}
