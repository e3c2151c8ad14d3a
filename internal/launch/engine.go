package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"taskrole/internal/fault"
)

// The engines whose command lines are known.
const (
	Docker = "docker"
	Podman = "podman"
)

// program finds the engine's command line.
func program(engine string) (string, error) {
	if engine != Docker && engine != Podman {
		return "", fault.New(fault.Usage, fmt.Sprintf("unknown engine %q", engine), "use --engine docker or --engine podman")
	}
	path, err := exec.LookPath(engine)
	if err != nil {
		other := map[string]string{Docker: Podman, Podman: Docker}[engine]
		hint := "install it, or make it findable through PATH"
		if _, err := exec.LookPath(other); err == nil {
			hint = fmt.Sprintf("install it, or use the other one: taskrole run --engine %s", other)
		}
		return "", fault.Wrap(err, fault.EngineMissing, fmt.Sprintf("there is no program %s", engine), hint)
	}
	return path, nil
}

// ask has the engine describe itself, by its own command line: so it is the engine that will be given the container,
// whatever context or variable that follows.
func ask(ctx context.Context, engine, path string, env []string) (facts, error) {
	cmd := exec.CommandContext(ctx, path, "info", "--format", "{{json .}}")
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		return facts{}, silent(engine, err, stderr.String(), ctx.Err() != nil)
	}
	if engine == Podman {
		return podmanFacts(stdout.Bytes())
	}
	return dockerFacts(stdout.Bytes())
}

// silent is a fault of an engine that did not describe itself: said is its own word.
func silent(engine string, err error, said string, late bool) error {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	said = lines[len(lines)-1]
	switch {
	case strings.Contains(strings.ToLower(said), "permission denied"):
		return fault.Wrap(err, fault.PermissionDenied, fmt.Sprintf("this user may not talk to %s: %s", engine, said),
			"run the command as root, or as a user of the group docker")
	case late:
		said = "no answer in time"
	case said == "":
		said = err.Error()
	}
	return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("%s does not answer: %s", engine, said),
		fmt.Sprintf(`start it (systemctl start %s), and look with "%s info"`, engine, engine))
}

func dockerFacts(b []byte) (facts, error) {
	var info struct {
		ServerVersion string
		CDISpecDirs   []string
		Runtimes      map[string]json.RawMessage
		ServerErrors  []string
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return facts{}, fault.Wrap(err, fault.EngineUnreachable, "docker info gives no JSON: "+err.Error(), `look with "docker info"`)
	}
	if len(info.ServerErrors) > 0 { // some versions say so and exit with 0
		err := errors.New(info.ServerErrors[0])
		return facts{}, silent(Docker, err, info.ServerErrors[0], false)
	}
	return facts{
		engine: Docker, version: info.ServerVersion, cdiDirs: info.CDISpecDirs, labels: true,
		runtimes: slices.Collect(maps.Keys(info.Runtimes)),
	}, nil
}

func podmanFacts(b []byte) (facts, error) {
	var info struct {
		Version struct{ Version string } `json:"version"`
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return facts{}, fault.Wrap(err, fault.EngineUnreachable, "podman info gives no JSON: "+err.Error(), `look with "podman info"`)
	}
	f := facts{engine: Podman, version: info.Version.Version}
	if atLeast(f.version, 4, 1) { //nolint:mnd // Podman 4.1 was the first
		f.cdiSomewhere = true
	}
	return f, nil
}

// atLeast compares the first two numbers of a version.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 { //nolint:mnd // both are needed
		return false
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}
