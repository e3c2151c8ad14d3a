package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/testkit/actor"
)

// labelledContainer is one as an engine describes it.
type labelledContainer struct {
	id    container.ID
	state string
	pid   int
	host  string // HostConfig
}

// engineHas makes the engine know these containers, and the agent ask for them. asked says whether it has described one.
func (w *world) engineHas(all ...labelledContainer) (asked func(container.ID) bool) {
	w.t.Helper()
	var described sync.Map
	says := func(path string) string {
		if strings.HasSuffix(path, "/containers/json") {
			var list []string
			for _, c := range all {
				list = append(list, fmt.Sprintf(`{"Id":%q,"Names":["/app"],"Image":"app","ImageID":"sha256:01","State":%q,"Labels":{"taskrole":"reader"}}`, c.id, c.state))
			}
			return "[" + strings.Join(list, ",") + "]"
		}
		for _, c := range all {
			if strings.HasSuffix(path, "/containers/"+string(c.id)+"/json") {
				described.Store(c.id, true)
				return fmt.Sprintf(`{"Id":%q,"State":{"Running":%v,"Pid":%d},"Config":{},"HostConfig":{%s}}`, c.id, c.state == "running", c.pid, c.host)
			}
		}
		if strings.Contains(path, "/images/") {
			return `{"Id":"sha256:01","Config":{}}`
		}
		return ""
	}
	w.says.Store(&says)
	w.sighup("configuration reloaded")
	return func(id container.ID) bool {
		_, ok := described.Load(id)
		return ok
	}
}

// cgroupOf makes the cgroup of a container, as an engine calls it, and returns its directory.
func cgroupOf(t *testing.T, parent string, id container.ID) string {
	t.Helper()
	dir := filepath.Join(parent, "docker-"+string(id)+".scope")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { actor.RemoveCgroup(t, dir) })
	return dir
}

func idOf(digit string) container.ID { return container.ID(strings.Repeat(digit, 64)) }

// The engine names a process by a number. That may be another's by now, or the engine may be wrong.
func TestLabelGivesNothingToAProcessOutsideTheContainersCgroup(t *testing.T) {
	w := newWorld(t)
	parent := actor.NewCgroup(t)
	id, other := idOf("a"), idOf("b")
	stranger := actor.Start(t, actor.NewNS(t), cgroupOf(t, parent, other))
	t.Cleanup(stranger.End)
	w.engineHas(labelledContainer{id: id, state: "running", pid: stranger.PID()})
	w.eventually("refused", func() bool { return strings.Contains(w.log.String(), "code=not-this-container") })
	if ids := w.list(); len(ids) > 0 {
		t.Errorf("attached: %v", ids)
	}
	if got := stranger.Do("get " + credentialsURL); strings.HasPrefix(got, "200") {
		t.Error("a process got the role of a container that it is not in")
	}
}

// A container is met in its cgroup before the engine says that it runs: the one process there that has a namespace of
// its own, and only if no hook is to come.
func TestContainersAreMetInTheirCgroup(t *testing.T) {
	w := newWorld(t)
	parent := actor.NewCgroup(t)
	first, second, hooked, third := idOf("a"), idOf("b"), idOf("c"), idOf("d")
	teacher := actor.Start(t, actor.NewNS(t), cgroupOf(t, parent, first))
	t.Cleanup(teacher.End)
	asked := w.engineHas(
		labelledContainer{id: first, state: "running", pid: teacher.PID()}, labelledContainer{id: second, state: "created"},
		labelledContainer{id: hooked, state: "created", host: `"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["taskrole/role=reader"]}]`},
		labelledContainer{id: third, state: "created"},
	)
	// With the first one attached, its directory of cgroups is known.
	w.eventually("the first is attached and the others are known", func() bool { return slices.Contains(w.list(), first) && asked(third) })
	begin := func(id container.ID) {
		dir := cgroupOf(t, parent, id)
		helper := actor.StartIn(t, dir) // as a runtime does, in the host's namespace
		helper.End()
		a := actor.Start(t, actor.NewNS(t), dir)
		t.Cleanup(a.End)
	}
	begin(hooked)
	begin(second)
	w.eventually("the second is met", func() bool { return slices.Contains(w.list(), second) })
	begin(third)
	w.eventually("the third is met", func() bool { return slices.Contains(w.list(), third) })
	if slices.Contains(w.list(), hooked) {
		t.Error("a container whose hook is to come was attached before it")
	}
}
