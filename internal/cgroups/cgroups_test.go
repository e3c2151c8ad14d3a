package cgroups

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/testkit"
	"taskrole/internal/testkit/actor"
)

func TestMain(m *testing.M) {
	if actor.Main() {
		return
	}
	os.Exit(testkit.Main(m))
}

var id = strings.Repeat("0123456789abcdef", 4)

func TestClassify(t *testing.T) {
	const other, place, container = "other", "place", "container"
	for p, want := range map[string]string{
		"/docker/" + id:                                           container,
		"/docker":                                                 place,
		"/system.slice/docker-" + id + ".scope":                   container,
		"/machine.slice/libpod-" + id + ".scope":                  container,
		"/machine.slice/libpod-conmon-" + id + ".scope":           container, // its monitor asks for nothing
		"/machine.slice":                                          place,
		"/libpod_parent/libpod-" + id:                             container,
		"/kubepods.slice/x.slice/crio-" + id + ".scope":           container,
		"/kubepods.slice/x.slice/cri-containerd-" + id + ".scope": container,
		"/kubepods/burstable/pod1/" + id:                          container,
		"/kubepods.slice":                                         place,
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope": container,
		"/custom.slice/docker-" + id + ".scope":                                            container,
		"/lab/docker/" + id:                                                                container,
		"/default":                                                                         place,
		"/lab/default":                                                                     other,
		"/system.slice":                                                                    other,
		"/system.slice/docker.service":                                                     other,
		"/system.slice/containerd.service":                                                 other,
		"/init.scope":                                                                      other,
		"/x/" + id[1:]:                                                                     other,
		"/x/0" + id:                                                                        other,
		"/x/" + strings.ToUpper(id):                                                        other,
	} {
		got := other
		if c, is := classify(p, "/system.slice/taskrole.service"); is && c.Path == p {
			got = place
			if c.Container == id {
				got = container
			}
		}
		if got != want {
			t.Errorf("%s is taken for %s, want %s", p, got, want)
		}
	}
	// What this process is in is the host to it, also in a container of somebody else's.
	for _, own := range []string{"/docker/" + id, "/docker/" + id + "/x"} {
		for _, p := range []string{"/docker", "/docker/" + id} {
			if _, is := classify(p, own); is {
				t.Errorf("in %s, %s is taken for a container", own, p)
			}
		}
	}
}

func mount(tb testing.TB, dir string) string {
	tb.Helper()
	return filepath.Dir(dir)
}

func TestContainersAreFoundAsTheyComeAndGo(t *testing.T) {
	testkit.Need(t, testkit.Root, testkit.Cgroup2)
	top := actor.NewCgroup(t)
	base := "/" + filepath.Base(top)
	mk := func(p string) string {
		t.Helper()
		dir := filepath.Join(top, p)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	before := mk("libpod-" + id + ".scope")
	t.Cleanup(func() { actor.RemoveCgroup(t, before) })

	scanned, err := Scan(mount(t, top), "/")
	if err != nil || !slices.Contains(below(scanned, base), "/libpod-"+id+".scope") {
		t.Errorf("Scan() = %v, %v", scanned, err)
	}

	told := make(chan []string, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := Watch(ctx, mount(t, top), "/", func(all map[uint64]Cgroup) { told <- below(all, base) })
		if err != nil {
			t.Error(err)
		}
	})
	defer watching.Wait()
	defer cancel()
	want := func(want ...string) {
		t.Helper()
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		var got []string
		for {
			select {
			case got = <-told:
				if slices.Equal(got, want) {
					return
				}
			case <-timer.C:
				t.Fatalf("told of %q, want %q", got, want)
			}
		}
	}
	first := "/libpod-" + id + ".scope"
	want(first)
	docker := mk("docker")
	want("/docker", first)
	mk("docker/" + id)
	want("/docker", "/docker/"+id, first)
	mk("docker/" + id + "/docker") // a name of the container's own choice
	slice := mk("some.slice")
	scope := mk("some.slice/docker-" + id + ".scope")
	want("/docker", "/docker/"+id, first, "/some.slice/docker-"+id+".scope")
	for _, dir := range []string{scope, slice, filepath.Join(docker, id, "docker"), filepath.Join(docker, id)} {
		actor.RemoveCgroup(t, dir)
	}
	want("/docker", first)
	mk("docker/" + id) // the same path, and another cgroup
	want("/docker", "/docker/"+id, first)
	actor.RemoveCgroup(t, filepath.Join(docker, id))
	actor.RemoveCgroup(t, docker)
	want(first)
}

// below are the paths of those in the test's own part of the tree, sorted.
func below(all map[uint64]Cgroup, base string) []string {
	var paths []string
	for _, c := range all {
		if p, ok := strings.CutPrefix(c.Path, base); ok {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}
