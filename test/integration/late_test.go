//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/probe/report"
)

// labelled starts a container that asks for its role by label alone and stays.
func (w *world) labelled(tb testing.TB, role string) string {
	tb.Helper()
	return w.live(tb, ec2.Container{Labels: map[string]string{"taskrole": role}})
}

// becomes waits until the container is attached, and checks that it is the role and by which way it came.
func (w *world) becomes(tb testing.TB, id string, way container.Way, role string) {
	tb.Helper()
	eventually(tb, func() error {
		for _, a := range w.attached(tb) {
			if string(a.ID) == id && a.PID == w.pid(tb, id) {
				if a.Way != way {
					return permanent{fmt.Errorf("the container came by %s, want %s", a.Way, way)}
				}
				if a.Missing != "" {
					return fmt.Errorf("the engine has taken away: %s", a.Missing)
				}
				return nil
			}
		}
		return fmt.Errorf("container %s is not attached", id)
	})
	who := whoAmI(tb, w.exec(tb, id, "identity"))
	if want := "arn:aws:sts::123456789012:assumed-role/" + role + "/"; !strings.HasPrefix(who.ARN, want) {
		tb.Errorf("the container is %q (%s), want %s…", who.ARN, who.Errors.First(), want)
	}
}

func TestLabelledContainerGetsItsRoleWhileItRuns(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.labelled(t, "reader")
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		w.must(t, "restart", "--time=1", id)
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		w.must(t, "kill", id)
		eventually(t, func() error { return w.idle(t) })
	})
}

// TestLabelledContainersAreMetBeforeTheirProgram: nobody waits for the agent, so that one of ten may be missed, but not all.
func TestLabelledContainersAreMetBeforeTheirProgram(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const starts = 10
		for range starts {
			r := w.start(t, ec2.Container{Labels: map[string]string{"taskrole": "reader"}, Args: []string{"race", cloud.TaskReader}})
			var race report.Race
			if err := json.Unmarshal(r.Stdout, &race); err != nil {
				t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
			}
			if race.First == cloud.TaskReader && race.Unanswered+race.Others == 0 {
				return
			}
			t.Logf("missed: %+v", race)
		}
		t.Errorf("none of %d containers had its role when its program began", starts)
	})
}

func TestLabelledContainerThatRunsAlreadyGetsItsRole(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		if err := w.stopAgent(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		id := w.labelled(t, "reader")
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)

		// It keeps its session for its life, also when another agent finds it by both its record and its label.
		before := w.attached(t)
		if err := w.stopAgent(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := w.startAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		after := w.attached(t)
		if len(before) != 1 || len(after) != 1 || before[0].Session != after[0].Session {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if n := w.listeners(t, id); n != 1 {
			t.Errorf("%d listeners in the container, want 1", n)
		}
	})
}

// refusedLate waits until the agent has said once that the labelled container runs without its role.
func (w *world) refusedLate(tb testing.TB, id, code string) {
	tb.Helper()
	eventually(tb, func() error {
		if n := w.refusals(id, code); n != 1 {
			return fmt.Errorf("the agent said %d times that %.12s is refused with %s, want once", n, id, code)
		}
		return nil
	})
	l, err := control.List(tb.Context(), w.socket())
	if err != nil {
		tb.Fatal(err)
	}
	for _, a := range l.Containers {
		if string(a.ID) == id && a.Way == container.WayLabel {
			tb.Errorf("attached after a refusal: %+v", a)
		}
	}
	told := func(r control.Refusal) bool {
		return string(r.ID) == id && string(r.Code) == code && r.Way == container.WayLabel
	}
	if !slices.ContainsFunc(l.Refusals, told) {
		tb.Errorf("taskrole ps does not tell that %.12s is refused with %s: %+v", id, code, l.Refusals)
	}
}

// refusals counts the lines of the log about one container and one code.
func (w *world) refusals(id, code string) int {
	n := 0
	for line := range strings.Lines(w.log()) {
		if strings.Contains(line, "refused") && strings.Contains(line, id[:12]) && strings.Contains(line, `"code":"`+code+`"`) {
			n++
		}
	}
	return n
}

func TestLabelledContainersAreRefusedAsOthersAre(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		asks := func(c ec2.Container, role string) string {
			c.Labels = map[string]string{"taskrole": role}
			return w.live(t, c)
		}
		policy, unknown := asks(ec2.Container{}, "keeper"), asks(ec2.Container{}, "raeder")
		host, denied := asks(ec2.Container{Network: ec2.NetworkHost}, "reader"), asks(ec2.Container{}, "untrusted")
		w.refusedLate(t, policy, "role-not-allowed")
		w.refusedLate(t, unknown, "role-unknown")
		w.refusedLate(t, host, "host-network")
		w.refusedLate(t, denied, "sts-denied")
		if err := w.idle(t); err != nil {
			t.Error(err)
		}

		// The administrator thinks again: what ran without its role gets it, and what is refused is not said twice.
		w.rewrite(t, strings.Replace(w.config(), `allow: [{name: "keeper-*"}]`, "allow: [{any: true}]", 1))
		w.reload(t)
		w.becomes(t, policy, container.WayLabel, cloud.TaskReader)
		w.refusedLate(t, unknown, "role-unknown")
	})
}

func TestLabelNeedsIMDS(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.rewrite(t, strings.Replace(w.config(), `allow: [{name: "keeper-*"}]`, "imds: off\n    allow: [{any: true}]", 1))
	before := len(w.log())
	w.reload(t)
	eventually(t, func() error {
		if !strings.Contains(w.log()[before:], "configuration reloaded") {
			return errors.New("the new configuration is not in force")
		}
		return nil
	})
	id := w.live(t, ec2.Container{Labels: map[string]string{"taskrole": "keeper"}, Name: "somebody"})
	w.refusedLate(t, id, "imds-off")
}

// TestLabelOfAnImageDoesNotCount: whoever built it would choose the role.
func TestLabelOfAnImageDoesNotCount(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		files := map[string]string{"/probe": bin("taskrole-lab-probe")}
		if err := w.docker.ImportFiles(t.Context(), "labelled", files, `ENTRYPOINT ["/probe"]`, "LABEL taskrole=reader"); err != nil {
			t.Fatal(err)
		}
		theirs := w.live(t, ec2.Container{Image: "labelled"})
		w.refusedLate(t, theirs, "role-not-allowed")
	})
}

func TestLabelBesideAnotherWayChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		same := w.live(t, ec2.Container{Role: "reader", Labels: map[string]string{"taskrole": "reader"}})
		other := w.live(t, ec2.Container{Role: "reader", Labels: map[string]string{"taskrole": "writer"}})
		w.refusedLate(t, other, "namespace-shared")
		for _, id := range []string{same, other} {
			w.becomes(t, id, w.way, cloud.TaskReader)
			if n := w.listeners(t, id); n != 1 {
				t.Errorf("%d listeners in the container, want 1", n)
			}
		}
		if w.refusals(same, "namespace-shared") > 0 {
			t.Error("the label that agrees is refused")
		}
	})
}

// TestCreatedContainersHaveTheirCredentialsFetched: well before the start, and once.
func TestCreatedContainersHaveTheirCredentialsFetched(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		calls := func() int { return w.cloud.Calls().Counts["sts"]["AssumeRole"] }
		before := calls()
		id := w.must(t, "create", "--label=taskrole=reader", "probe", "sleep", "10m")
		defer w.must(t, "rm", "-f", id)
		eventually(t, func() error {
			if n := calls() - before; n != 1 {
				return fmt.Errorf("STS was asked %d times for a container that is created, want once", n)
			}
			return nil
		})
		if err := w.idle(t); err != nil {
			t.Error(err)
		}
		w.must(t, "start", id)
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		if n := calls() - before; n != 1 {
			t.Errorf("STS was asked %d times for a container that has started, want once", n)
		}
	})
}

// door stands between the agent and the engine, and can be shut.
type door struct {
	path, engine string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[net.Conn]bool
	wg       sync.WaitGroup
}

func (d *door) open(tb testing.TB) {
	tb.Helper()
	l, err := net.Listen("unix", d.path)
	if err != nil {
		tb.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener, d.conns = l, map[net.Conn]bool{}
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.pass(c) })
		}
	})
}

// pass moves bytes both ways until one side is closed.
func (d *door) pass(c net.Conn) {
	e, err := net.Dial("unix", d.engine)
	if err != nil {
		_ = c.Close()
		return
	}
	d.mu.Lock()
	d.conns[c] = true
	d.mu.Unlock()
	d.wg.Go(func() {
		_, _ = io.Copy(e, c)
		_ = e.Close()
	})
	_, _ = io.Copy(c, e)
	_ = c.Close()
}

func (d *door) shut() {
	d.mu.Lock()
	_ = d.listener.Close()
	for c := range d.conns {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// TestEngineThatGoesAwayIsFoundAgain: what starts while nobody tells of it is found by the list.
func TestEngineThatGoesAwayIsFoundAgain(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		d := &door{path: filepath.Join(w.dir, "door.sock"), engine: strings.TrimPrefix(w.docker.Host(), "unix://")}
		d.open(t)
		w.behind(t, "unix://"+d.path)
		stays := w.labelled(t, "reader")
		w.becomes(t, stays, container.WayLabel, cloud.TaskReader)
		d.shut()
		missed := w.labelled(t, "writer")
		wantRole(t, w.exec(t, stays, "identity"), cloud.TaskReader) // needs no engine
		d.open(t)
		defer d.shut()
		w.becomes(t, missed, container.WayLabel, cloud.TaskWriter)
		w.becomes(t, w.labelled(t, "reader"), container.WayLabel, cloud.TaskReader) // events come again
	})
}

// TestLabelledContainerComesBackWithItsEngine: the engine is restarted as an upgrade does, and starts the container
// again before it answers anybody.
func TestLabelledContainerComesBackWithItsEngine(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		words := []string{"run", "--detach", "--restart=always", "--label=taskrole=reader"}
		for _, kv := range w.environment() {
			words = append(words, "--env="+kv)
		}
		id := w.must(t, append(words, "probe", "sleep", "10m")...)
		defer w.must(t, "rm", "-f", id)
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		before := w.pid(t, id)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.docker.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if pid := w.must(t, "inspect", "--format={{.State.Pid}}", id); pid == "0" || pid == strconv.Itoa(before) {
				return errors.New("the engine has not started the container again")
			}
			return nil
		})
		w.becomes(t, id, container.WayLabel, cloud.TaskReader)
		w.becomes(t, w.labelled(t, "writer"), container.WayLabel, cloud.TaskWriter) // events come again
	})
}

// TestQuickLabelledContainersLeaveNothing: starts and ends in parallel, a container that the engine starts over and over,
// and one that is killed.
func TestQuickLabelledContainersLeaveNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		eventually(t, func() error { return w.idle(t) })
		files, namespaces := w.open(t, ""), w.open(t, "net:[")
		loop := w.must(t, "run", "--detach", "--restart=always", "--label=taskrole=writer", "--network=none", "probe", "sleep", "0s")
		const hands, each = 4, 3
		var wg sync.WaitGroup
		for range hands {
			wg.Go(func() {
				for range each {
					c := ec2.Container{Image: "probe", Network: ec2.NetworkNone, Labels: map[string]string{"taskrole": "reader"}, Args: []string{"race", cloud.TaskReader}}
					if r, err := w.docker.Run(t.Context(), c); err != nil || r.Exit != 0 {
						t.Errorf("%v: exit %d, %s", err, r.Exit, r.Stderr)
					}
				}
			})
		}
		wg.Wait()
		w.must(t, "kill", "--signal=KILL", w.labelled(t, "reader"))
		w.must(t, "rm", "-f", loop)
		eventually(t, func() error {
			if err := w.idle(t); err != nil {
				return err
			}
			if n := w.open(t, "net:["); n > namespaces {
				return fmt.Errorf("%d network namespaces are open, before %d", n, namespaces)
			}
			if n := w.open(t, ""); n > files+3 { // connections to the engine and to STS come and go
				return fmt.Errorf("%d files are open, before %d", n, files)
			}
			if n := w.open(t, "pidfd"); n > 0 {
				return fmt.Errorf("%d pidfds are open", n)
			}
			return nil
		})
	})
}

// behind restarts the agent with another address of the engine, for the length of a test.
func (w *world) behind(tb testing.TB, host string) {
	tb.Helper()
	again := func(text string) {
		if err := w.stopAgent(syscall.SIGTERM); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(w.configPath(), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		if err := w.startAgent(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	again(strings.Replace(w.config(), w.docker.Host(), host, 1))
	tb.Cleanup(func() {
		if err := w.stopAgent(syscall.SIGTERM); err != nil {
			tb.Error(err)
		}
		if err := os.WriteFile(w.configPath(), []byte(w.config()), 0o600); err != nil {
			tb.Error(err)
		}
		if err := w.startAgent(context.WithoutCancel(tb.Context())); err != nil {
			tb.Error(err)
		}
	})
}
