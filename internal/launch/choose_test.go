package launch

import (
	"slices"
	"strings"
	"testing"

	"taskrole/internal/fault"
)

func TestBestWayInIsTaken(t *testing.T) {
	for name, c := range map[string]struct {
		facts facts
		want  string
		args  string
	}{
		"everything":          {facts{cdiDirs: []string{"/etc/cdi", "/run/cdi"}, runtimes: []string{"runc", "taskrole"}, labels: true}, wayCDI, "--device=taskrole/role=r"},
		"CDI of another dir":  {facts{cdiDirs: []string{"/run/cdi"}, runtimes: []string{"runc", "taskrole"}, labels: true}, wayRuntime, "--runtime=taskrole --env=TASKROLE=r"},
		"no CDI":              {facts{runtimes: []string{"taskrole"}, labels: true}, wayRuntime, "--runtime=taskrole --env=TASKROLE=r"},
		"nothing but events":  {facts{runtimes: []string{"runc"}, labels: true}, wayLabel, "--label=taskrole=r"},
		"a slash at the end":  {facts{cdiDirs: []string{"/etc/cdi/"}}, wayCDI, "--device=taskrole/role=r"},
		"CDI somewhere":       {facts{engine: "podman", cdiSomewhere: true}, wayCDI, "--device=taskrole/role=r"},
		"nothing at all":      {facts{engine: "podman", version: "4.0.1"}, "", ""},
		"a runtime much like": {facts{runtimes: []string{"taskrole2"}}, "", ""},
	} {
		w, err := choose(c.facts, "r", "/etc/cdi")
		if w.name != c.want || strings.Join(w.args, " ") != c.args || (c.want == "") != (fault.CodeOf(err) == fault.WayMissing) {
			t.Errorf("%s: %q %v, %v; want %q %q", name, w.name, w.args, err, c.want, c.args)
		}
	}
}

func TestVarRunIsRun(t *testing.T) {
	if !sameDir("/var/run/cdi", "/run/cdi/") || sameDir("/etc/cdi", "/run/cdi") {
		t.Error("sameDir is wrong")
	}
}

func TestContradictionsAreNamed(t *testing.T) {
	for line, want := range map[string]string{
		"--device taskrole/role=other alpine":     "--device taskrole/role=other names a role",
		"--device=taskrole/role=r alpine":         "--device taskrole/role=r names a role",
		"-e TASKROLE=other alpine":                "--env TASKROLE=other names a role",
		"-itl taskrole=other alpine":              "--label taskrole=other names a role",
		"-e AWS_SECRET_ACCESS_KEY=wJalrXU alpine": "--env AWS_SECRET_ACCESS_KEY would give",
		"--env AWS_ACCESS_KEY_ID alpine":          "--env AWS_ACCESS_KEY_ID would give",
		"--runtime runsc alpine":                  "--runtime runsc is given",
	} {
		err := contradiction(flagsOf(strings.Fields(line)), "r", way{name: wayRuntime})
		if fault.CodeOf(err) != fault.ArgumentsContradict || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wJalrXU") {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	for _, line := range []string{
		"alpine env AWS_ACCESS_KEY_ID=x", "-e AWS_REGION=eu-central-1 --device /dev/fuse --label taskrole.x=y alpine --device taskrole/role=other",
		"--entrypoint sh alpine", "--runtime-opt alpine",
	} {
		if err := contradiction(flagsOf(strings.Fields(line)), "r", way{name: wayRuntime}); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := contradiction(flagsOf([]string{"--runtime=runsc", "alpine"}), "r", way{name: wayCDI}); err != nil {
		t.Errorf("a runtime beside a device: %v", err)
	}
}

func TestWhatEnginesSayOfThemselves(t *testing.T) {
	f, err := dockerFacts([]byte(`{"ServerVersion":"28.5.2","CDISpecDirs":["/etc/cdi","/var/run/cdi"],"Runtimes":{"runc":{"path":"runc"},"taskrole":{}}}`))
	if err != nil || f.version != "28.5.2" || !slices.Contains(f.cdiDirs, "/etc/cdi") || !slices.Contains(f.runtimes, "taskrole") || !f.labels {
		t.Errorf("docker: %+v, %v", f, err)
	}
	if _, err := dockerFacts([]byte(`{"ServerErrors":["Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"]}`)); fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("docker that is not there: %v", err)
	}
	if _, err := dockerFacts([]byte(`{"ServerErrors":["permission denied while trying to connect"]}`)); fault.CodeOf(err) != fault.PermissionDenied {
		t.Errorf("docker that may not be asked: %v", err)
	}
	for version, cdi := range map[string]bool{"5.8.6": true, "4.1.0": true, "4.10.0-dev": true, "4.0.3": false, "3.4.4": false, "": false, "x.y": false} {
		f, err := podmanFacts([]byte(`{"version":{"Version":"` + version + `"}}`))
		if err != nil || f.cdiSomewhere != cdi || f.labels {
			t.Errorf("podman %s: %+v, %v, want CDI %v", version, f, err, cdi)
		}
	}
}
