//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/ec2/engineroot"
)

// held is what the agent has of the kernel at one moment.
type held struct {
	files, namespaces, pidfds, bpf int
	lo                             string // addresses on the host's own lo
}

func (w *world) held(tb testing.TB) held {
	tb.Helper()
	return held{
		files: w.open(tb, ""), namespaces: w.open(tb, "net:["), pidfds: w.open(tb, "pidfd"), bpf: w.open(tb, "bpf"),
		lo: w.onInstance(tb, "ip", "-oneline", "addr", "show", "dev", "lo"),
	}
}

// programs collects the ids of the BPF programs that the agent has, until the function returned is called. That one
// checks that they are gone from the kernel. They are not counted there, where others may have some too.
func (w *world) programs(tb testing.TB) (gone func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	seen := map[ebpf.ProgramID]bool{}
	var watching sync.WaitGroup
	infos := fmt.Sprintf("/proc/%d/fdinfo", w.agent.Process.Pid)
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for _, id := range programIDs(infos) {
				seen[id] = true
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
		if len(seen) == 0 {
			tb.Error("no BPF program was seen: this proves nothing")
		}
		eventually(tb, func() error {
			for id := range seen {
				p, err := ebpf.NewProgramFromID(id)
				if errors.Is(err, fs.ErrNotExist) {
					delete(seen, id)
					continue
				}
				if err != nil {
					return permanent{err}
				}
				_ = p.Close()
				return fmt.Errorf("BPF program %d is left", id)
			}
			return nil
		})
	}
}

// programIDs reads what the kernel tells of each descriptor in a directory of fdinfo (proc(5)).
func programIDs(dir string) []ebpf.ProgramID {
	var ids []ebpf.ProgramID
	files, _ := filepath.Glob(dir + "/*")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it is closed meanwhile
		}
		for line := range strings.Lines(string(text)) {
			if word, ok := strings.CutPrefix(line, "prog_id:"); ok {
				if id, err := strconv.ParseUint(strings.TrimSpace(word), 10, 32); err == nil {
					ids = append(ids, ebpf.ProgramID(id))
				}
			}
		}
	}
	return ids
}

// hasWhatItHad waits until the agent has what it had before, and no more.
func (w *world) hasWhatItHad(tb testing.TB, before held) {
	tb.Helper()
	eventually(tb, func() error {
		if err := w.idle(tb); err != nil {
			return err
		}
		now := w.held(tb)
		const connections = 3 // to the engine and to STS come and go
		if now.namespaces > before.namespaces || now.pidfds > 0 || now.bpf > before.bpf || now.lo != before.lo || now.files > before.files+connections {
			return fmt.Errorf("the agent has %+v, before %+v", now, before)
		}
		return nil
	})
}

// serves checks that the containers, and no others, are attached, and that each has one listener and its own role.
func (w *world) serves(tb testing.TB, roles map[string]string) {
	tb.Helper()
	eventually(tb, func() error {
		for _, a := range w.attached(tb) {
			if roles[string(a.ID)] != a.Role || a.PID != w.pid(tb, string(a.ID)) {
				return fmt.Errorf("attached as %+v", a)
			}
		}
		if n := len(w.attached(tb)); n != len(roles) {
			return fmt.Errorf("%d are attached, want %d", n, len(roles))
		}
		return nil
	})
	for id, role := range roles {
		if n := w.listeners(tb, id); n != 1 {
			tb.Errorf("%.12s has %d listeners, want 1", id, n)
		}
		wantCredentials(tb, w.credentialsOf(tb, id), taskOf(role))
	}
}

// taskOf is the AWS role behind a role of the configuration.
func taskOf(role string) string {
	return map[string]string{"reader": cloud.TaskReader, "writer": cloud.TaskWriter}[role]
}

// onEndured runs a test on the engines of the endurance tests.
func onEndured(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	for _, name := range []string{"docker-20.10", "docker-28.5", "podman-5.8"} {
		onOther(t, name, test)
	}
}

// settled runs one container, so that what the agent opens once and keeps is open, and returns what it has then.
func (w *world) settled(t *testing.T) held {
	t.Helper()
	w.run(t, "reader", ec2.NetworkNone, "env")
	eventually(t, func() error { return w.idle(t) })
	return w.held(t)
}

// stays starts a container that stays until remove.
func (w *world) stays(t *testing.T, c ec2.Container) string {
	t.Helper()
	c.Detach, c.Network = true, ec2.NetworkNone
	if len(c.Args) == 0 {
		c.Args = []string{"sleep", "10m"}
	}
	r := w.start(t, c)
	if r.Exit != 0 {
		t.Fatalf("the container did not start: %s", r.Stderr)
	}
	id := strings.TrimSpace(string(r.Stdout))
	t.Cleanup(func() { _ = w.docker.Remove(context.WithoutCancel(t.Context()), id) }) // for a test that failed
	return id
}

// TestEndurance: whatever befalls a container, it has its role while it runs, and nothing of it is left afterwards.
func TestEndurance(t *testing.T) {
	onEndured(t, func(t *testing.T, w *world) {
		before := w.settled(t)
		gone := w.programs(t)
		reader, writer := w.stays(t, ec2.Container{Role: "reader"}), w.stays(t, ec2.Container{Role: "writer"})
		roles := map[string]string{reader: "reader", writer: "writer"}
		w.must(t, "pause", writer)
		w.must(t, "restart", "--time=1", reader)
		wantCredentials(t, w.credentialsOf(t, reader), cloud.TaskReader)
		w.must(t, "unpause", writer)
		w.serves(t, roles)

		if err := syscall.Kill(w.pid(t, writer), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		delete(roles, writer)
		w.serves(t, roles)
		w.must(t, "start", writer)
		roles[writer] = "writer"
		w.serves(t, roles)

		w.crashLoop(t)
		w.serves(t, roles)
		if err := w.docker.Remove(t.Context(), reader, writer); err != nil {
			t.Fatal(err)
		}
		w.hasWhatItHad(t, before)
		gone()
	})
}

// crashLoop lets the engine start a container again and again.
func (w *world) crashLoop(t *testing.T) {
	t.Helper()
	const times = 3
	from := len(w.log())
	id := w.stays(t, ec2.Container{Role: "writer", Args: []string{"sleep", "50ms"}, Options: []string{"--restart=always"}})
	eventually(t, func() error {
		n := 0
		for _, l := range w.lines(from, "attached") {
			if strings.HasPrefix(id, l.ID) {
				n++
			}
		}
		if n <= times {
			return fmt.Errorf("the container that ends at once was attached %d times", n)
		}
		return nil
	})
	if err := w.docker.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// line is what the tests read of the agent's log.
type line struct {
	Msg  string
	ID   string `json:"container_id"`
	Took time.Duration
}

// lines returns those with the message, from a place in the log on.
func (w *world) lines(from int, message string) (found []line) {
	for text := range strings.Lines(w.log()[from:]) {
		var l line
		if json.Unmarshal([]byte(text), &l) == nil && l.Msg == message {
			found = append(found, l)
		}
	}
	return found
}

// quickStarts is how many containers are started and stopped on each engine, and side by side how many at a time.
var quickStarts = map[engineroot.Kind]int{engineroot.Docker: 90, engineroot.Podman: 20}

const atATime = 8

// TestTwoHundredQuickStarts: each has its own role, and of all of them nothing is left. The log has what an attach took.
func TestTwoHundredQuickStarts(t *testing.T) {
	onEndured(t, func(t *testing.T, w *world) {
		before := w.settled(t)
		gone, from, begun := w.programs(t), len(w.log()), time.Now()
		todo := make(chan int)
		var workers sync.WaitGroup
		for range atATime {
			workers.Go(func() {
				for n := range todo {
					w.quickStart(t, []string{"reader", "writer"}[n%2])
				}
			})
		}
		for n := range quickStarts[w.kind] {
			todo <- n
		}
		close(todo)
		workers.Wait()
		elapsed := time.Since(begun)
		w.hasWhatItHad(t, before)
		gone()
		var took []time.Duration
		for _, l := range w.lines(from, "attached") {
			took = append(took, l.Took)
		}
		if len(took) != quickStarts[w.kind] {
			t.Fatalf("%d attaches of %d starts", len(took), quickStarts[w.kind])
		}
		slices.Sort(took)
		t.Logf("%s: %d starts and stops in %v, %d at a time; attach: median %v, p99 %v", w.docker.Name(), len(took),
			elapsed.Round(time.Millisecond), atATime, took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond))
	})
}

// quickStart runs a container that asks for its credentials and ends.
func (w *world) quickStart(t *testing.T, role string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := w.docker.Run(ctx, ec2.Container{
		Image: "probe", Role: role, Way: w.way, Network: ec2.NetworkNone, Args: []string{"get", "http://169.254.170.2/v2/credentials/any"},
	})
	if err != nil || r.Exit != 0 {
		t.Errorf("exit %d, %v, %s", r.Exit, err, r.Stderr)
		return
	}
	wantCredentials(t, string(r.Stdout), taskOf(role))
}
