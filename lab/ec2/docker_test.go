package ec2_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/leftover"
)

// treeVariable names the environment variable with a root file system that has a Docker with CDI in it.
const treeVariable = "TASKROLE_TEST_DOCKER_TREE"

// forms are the kinds of daemon to test with.
func forms(t *testing.T) map[string]ec2.DockerOptions {
	t.Helper()
	testkit.Need(t, testkit.Docker)
	f := map[string]ec2.DockerOptions{"machine": {}, "machine_cgroup_v2": {CgroupV2: true}}
	if tree := os.Getenv(treeVariable); tree != "" {
		f["tree"] = ec2.DockerOptions{Root: tree}
	} else {
		t.Logf("no engine in a tree: %s is not set", treeVariable)
	}
	return f
}

// startDocker starts a daemon that has the image "client".
func startDocker(t *testing.T, i *ec2.Instance, o ec2.DockerOptions, client string) *ec2.Docker {
	t.Helper()
	begin := time.Now()
	d, err := ec2.NewDocker(t.Context(), i, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s up in %v", d.Name(), time.Since(begin))
	files := map[string]string{"/bin/client": client}
	if err := d.ImportFiles(t.Context(), "client", files, `ENTRYPOINT ["/bin/client"]`); err != nil {
		t.Fatal(err)
	}
	return d
}

func run(t *testing.T, d *ec2.Docker, c ec2.Container) ec2.Result {
	t.Helper()
	c.Image = "client"
	r, err := d.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDockerNetworks(t *testing.T) {
	path := client(t)
	for form, o := range forms(t) {
		t.Run(form, func(t *testing.T) {
			i := launch(t, ec2.Options{Cloud: fakeCloud{hopLimit: 1}})
			d := startDocker(t, i, o, path)
			for _, c := range []struct {
				network     ec2.Network
				method, url string
				exit        int
				out         string
			}{
				{"", "GET", metadata, 0, "metadata to 10.99.0.10"},
				{ec2.NetworkBridge, "PUT", metadata, 1, ""},
				{ec2.NetworkBridge, "GET", i.ServicesURL(), 0, "services to 10.99.0.10"},
				{ec2.NetworkCustom, "GET", i.ServicesURL(), 0, "services to 10.99.0.10"},
				{ec2.NetworkCustom, "PUT", metadata, 1, ""},
				{ec2.NetworkHost, "PUT", metadata, 0, "metadata to 10.99.0.10"},
				{ec2.NetworkNone, "GET", metadata, 2, ""},
			} {
				r := run(t, d, ec2.Container{Network: c.network, Args: []string{c.method, c.url}})
				t.Logf("%q %s %s: %v", c.network, c.method, c.url, r.Elapsed)
				if r.Exit != c.exit || string(r.Stdout) != c.out {
					t.Errorf("%q %s %s: exit %d, %q, want %d, %q; %s", c.network, c.method, c.url, r.Exit, r.Stdout, c.exit, c.out, r.Stderr)
				}
			}
		})
	}
}

func TestDockerRoutesWithHopLimitTwo(t *testing.T) {
	path := client(t)
	testkit.Need(t, testkit.Docker)
	d := startDocker(t, launch(t, ec2.Options{Cloud: fakeCloud{hopLimit: 2}}), ec2.DockerOptions{}, path)
	if r := run(t, d, ec2.Container{Args: []string{"PUT", metadata}}); r.Exit != 0 {
		t.Errorf("PUT from a bridge container with hop limit 2: exit %d, %s", r.Exit, r.Stderr)
	}
}

func TestDockerWaysIn(t *testing.T) {
	path := client(t)
	for form, o := range forms(t) {
		t.Run(form, func(t *testing.T) {
			i := launch(t, ec2.Options{})
			// A runtime that tells what it was given, and hands over to runc.
			shared := t.TempDir()
			o.Runtime = filepath.Join(shared, "runtime")
			script := "#!/bin/sh\necho \"$TASKROLE_CDI_SPEC\" >" + shared + "/spec\nexec runc \"$@\"\n"
			if err := os.WriteFile(o.Runtime, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			o.CDIDir = filepath.Join(shared, "cdi")
			o.Spec = filepath.Join(o.CDIDir, "taskrole.json")
			if err := os.Mkdir(o.CDIDir, 0o755); err != nil {
				t.Fatal(err)
			}
			spec := `{"cdiVersion":"0.5.0","kind":"taskrole/role","devices":[{"name":"app","containerEdits":{"env":["BY=cdi"]}}]}`
			if err := os.WriteFile(o.Spec, []byte(spec), 0o600); err != nil {
				t.Fatal(err)
			}
			d := startDocker(t, i, o, path)
			if !slices.Contains(d.WaysIn(), container.WayShim) || slices.Contains(d.WaysIn(), container.WayCDI) != (d.Version()[:2] >= "25") {
				t.Errorf("the ways into %s are %q", d.Version(), d.WaysIn())
			}
			for _, way := range d.WaysIn() {
				want := map[container.Way]string{container.WayShim: "TASKROLE=app", container.WayCDI: "BY=cdi"}[way]
				r := run(t, d, ec2.Container{Way: way, Role: "app", Args: []string{"env"}})
				if r.Exit != 0 || !slices.Contains(strings.Split(string(r.Stdout), "\n"), want) {
					t.Errorf("%s: exit %d, %s%s, want %s", way, r.Exit, r.Stdout, r.Stderr, want)
				}
			}
			if got, _ := os.ReadFile(filepath.Join(shared, "spec")); strings.TrimSpace(string(got)) != o.Spec {
				t.Errorf("the runtime sees TASKROLE_CDI_SPEC=%s, want %s", got, o.Spec)
			}
			if r := run(t, d, ec2.Container{Way: "", Role: "app", Args: []string{"env"}}); strings.Contains(string(r.Stdout), "TASKROLE") {
				t.Errorf("a plain container has %s", r.Stdout)
			}
		})
	}
}

func TestDockerRefusesAWayItDoesNotHave(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	d, err := ec2.NewDocker(t.Context(), launch(t, ec2.Options{}), ec2.DockerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Run(t.Context(), ec2.Container{Image: "x", Way: container.WayShim, Role: "app"}); !errors.Is(err, ec2.ErrWay) {
		t.Errorf("Run by a way that is not there: %v", err)
	}
	r, err := d.Run(t.Context(), ec2.Container{Image: "not-there"})
	if err != nil || r.Exit != 125 || !strings.Contains(string(r.Stderr), "No such image") {
		t.Errorf("Run of an image that is not there: %v, exit %d, %s", err, r.Exit, r.Stderr)
	}
}

func TestDockerFilesAreReadOnlyAndNotInvented(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	path := client(t)
	d := startDocker(t, launch(t, ec2.Options{}), ec2.DockerOptions{}, path)
	r, err := d.Exec(t.Context(), "run", "--rm", "--entrypoint=/other", "--mount=type=bind,src="+path+",dst=/other,readonly", "client", "env")
	if err != nil || r.Exit != 0 {
		t.Errorf("a shared program: %v, exit %d, %s", err, r.Exit, r.Stderr)
	}
	r = run(t, d, ec2.Container{Files: map[string]string{path + ".missing": "/x"}, Args: []string{"env"}})
	if r.Exit != 125 || !strings.Contains(string(r.Stderr), "does not exist") {
		t.Errorf("a missing file: exit %d, %s", r.Exit, r.Stderr)
	}
}

func TestDockerCloseWithContainersLeavesNothing(t *testing.T) {
	path := client(t)
	for form, o := range forms(t) {
		t.Run(form, func(t *testing.T) {
			i := launch(t, ec2.Options{})
			d := startDocker(t, i, o, path)
			for _, n := range []ec2.Network{ec2.NetworkBridge, ec2.NetworkCustom, ec2.NetworkHost, ec2.NetworkNone} {
				if r := run(t, d, ec2.Container{Network: n, Detach: true, Args: []string{"wait"}}); r.Exit != 0 {
					t.Fatalf("%s: %s", n, r.Stderr)
				}
			}
			traces := i.Traces()
			begin := time.Now()
			if err := d.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			t.Logf("docker closed in %v", time.Since(begin))
			if err := d.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
			found, err := leftover.Traces{Dirs: traces.Dirs[1:], Cgroups: traces.Cgroups}.Find()
			if err != nil || len(found) > 0 {
				t.Errorf("left behind: %q, %v", found, err)
			}
		})
	}
}

func TestDockerRunRemovesTheContainerOfACancelledCaller(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	d := startDocker(t, launch(t, ec2.Options{}), ec2.DockerOptions{}, client(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := d.Run(ctx, ec2.Container{Name: "endless", Image: "client", Args: []string{"wait"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run returns %v", err)
	}
	if r, err := d.Exec(t.Context(), "ps", "-aq"); err != nil || len(r.Stdout) > 0 {
		t.Errorf("there are containers: %s, %v", r.Stdout, err)
	}
}

func TestNewDockerThatFailsLeavesNothing(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	i := launch(t, ec2.Options{})
	empty := t.TempDir()
	if _, err := ec2.NewDocker(t.Context(), i, ec2.DockerOptions{Root: empty}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without dockerd: %v", err)
	}
	if _, err := ec2.NewDocker(t.Context(), i, ec2.DockerOptions{Root: brokenTree(t)}); err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
		t.Errorf("with a dockerd that does not start: %v", err)
	}
	if _, err := ec2.NewDocker(t.Context(), i, ec2.DockerOptions{Share: []string{"/not/there"}}); err == nil || !strings.Contains(err.Error(), "/not/there") {
		t.Errorf("with a directory that is not there: %v", err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 60))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ec2.NewDocker(t.Context(), i, ec2.DockerOptions{Dir: long}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("with a long directory: %v", err)
	}
	// The daemon is up after some 300 to 600 ms; every step before that must be one that can be interrupted. A start that
	// is quicker than its cancellation is no failure, but the early ones cannot be.
	const certain = 100 * time.Millisecond
	for _, after := range []time.Duration{0, 10e6, 50e6, certain, 200e6, 300e6, 400e6} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		d, err := ec2.NewDocker(ctx, i, ec2.DockerOptions{})
		cancel()
		switch {
		case err == nil && after > certain:
			if err := d.Close(); err != nil {
				t.Errorf("up within %v, and closed: %v", after, err)
			}
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("cancelled after %v: %v", after, err)
		}
	}
	entries, err := os.ReadDir(i.Dir())
	if err != nil || len(entries) != 1 { // control.sock
		t.Errorf("left in %s: %v, %v", i.Dir(), entries, err)
	}
	traces := i.Traces()
	found, err := leftover.Traces{Dirs: []string{i.Dir() + "/d"}, Cgroups: traces.Cgroups}.Find()
	if err != nil || len(found) > 0 {
		t.Errorf("left behind: %q, %v", found, err)
	}
}

// brokenTree is a root file system with a dockerd that does not start.
func brokenTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	for _, dir := range []string{"usr/bin", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(client(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dockerd", "docker"} {
		if err := os.WriteFile(filepath.Join(tree, "usr/bin", name), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// doomed is a lab with a running container, which says what to look for and then waits to be killed.
func doomed(tree, client string) int {
	ctx := context.Background()
	i, err := ec2.Launch(ctx, ec2.Options{Cloud: fakeCloud{}})
	if err != nil {
		panic(err)
	}
	d, err := ec2.NewDocker(ctx, i, ec2.DockerOptions{Root: tree})
	if err != nil {
		panic(err)
	}
	if err := d.ImportFiles(ctx, "client", map[string]string{"/client": client}); err != nil {
		panic(err)
	}
	r, err := d.Run(ctx, ec2.Container{Image: "client", Args: []string{"/client", "wait"}, Detach: true})
	if err != nil || r.Exit != 0 {
		panic(string(r.Stderr))
	}
	if err := i.Start(exec.CommandContext(ctx, client, "wait", i.Dir())); err != nil {
		panic(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(i.Traces())
	select {}
}

func TestKilledLabLeavesNothing(t *testing.T) {
	path := client(t)
	for form, o := range forms(t) {
		t.Run(form, func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe, "doomed", o.Root, path)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var traces leftover.Traces
			if err := json.NewDecoder(out).Decode(&traces); err != nil {
				t.Error(err)
			}
			before, err := traces.Find()
			if err != nil || len(before) < 5 {
				t.Errorf("a running lab shows only %q, %v", before, err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
			// The instance's own directory may stay, with nothing but a socket in it: nobody was there to remove it.
			home := traces.Dirs[0]
			traces.Dirs = []string{home + "/d"}
			nothingLeft(t, traces)
			entries, err := os.ReadDir(home)
			if err != nil || len(entries) != 1 || entries[0].Name() != "control.sock" {
				t.Errorf("left in %s: %v, %v", home, entries, err)
			}
			_ = os.RemoveAll(home)
		})
	}
}
