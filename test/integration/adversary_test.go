//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"taskrole/internal/testkit/actor"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// importAttacker makes the image attacker, of this very program.
func (w *world) importAttacker(tb testing.TB) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	err = w.docker.ImportFiles(tb.Context(), "attacker", map[string]string{"/attacker": self}, `ENTRYPOINT ["/attacker", "`+attackVerb+`"]`)
	if err != nil {
		tb.Fatal(err)
	}
}

// attack runs an attacker to its end and returns what it says.
func (w *world) attack(tb testing.TB, c ec2.Container, words ...string) string {
	tb.Helper()
	c.Image, c.Args = "attacker", words
	r := w.start(tb, c)
	if r.Exit != 0 {
		tb.Fatalf("attack %q: exit %d, %s%s", words, r.Exit, r.Stdout, r.Stderr)
	}
	return string(r.Stdout)
}

func (w *world) address(tb testing.TB, id string) string {
	tb.Helper()
	return w.must(tb, "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id)
}

// An address on the victim's lo is in reach of its neighbours on the bridge (the weak host model), were it not for us.
func TestNeighbourOnTheBridgeGetsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.importAttacker(t)
		victim := w.live(t, ec2.Container{Role: "reader", Network: ec2.NetworkBridge, Args: []string{"serve", "-listen", ":8080"}})
		ip := w.address(t, victim)
		byRoute := w.attack(t, ec2.Container{Network: ec2.NetworkBridge, Options: []string{"--cap-add=NET_ADMIN"}}, "route", ip)
		if !strings.Contains(byRoute, "connection refused") {
			t.Errorf("a neighbour with NET_ADMIN and a route: %s", byRoute)
		}
		// Docker's own default is enough for these.
		frames := w.attack(t, ec2.Container{Network: ec2.NetworkBridge}, "raw", ip)
		want := ip + ":8080 open\n169.254.170.2:80 closed\n169.254.170.2:1 closed\n169.254.169.254:80 closed\n"
		if frames != want {
			t.Errorf("frames of a neighbour with NET_RAW are answered:\n%swant\n%s", frames, want)
		}
		wantCredentials(t, w.exec1(t, victim, "get", victimsCredentials), cloud.TaskReader)
	})
}

// exec1 runs the probe in a running container and returns what it prints.
func (w *world) exec1(tb testing.TB, id string, args ...string) string {
	tb.Helper()
	return string(w.exec(tb, id, args...).Stdout)
}

// A socket is its maker's, wherever it goes: whoever has a role could as well hand the credentials over.
func TestASocketStaysItsMakers(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.importAttacker(t)
	pause := w.live(t, ec2.Container{Network: ec2.NetworkNone, Options: confined})
	network := ec2.Network("container:" + pause)
	shared := func(volume string) []string {
		return []string{confined[0], "--mount=type=volume,src=" + volume + ",dst=/shared"}
	}
	for volume, c := range map[string]struct {
		maker, user string
		served      bool
	}{
		"from-none":   {"", "reader", false},
		"from-reader": {"reader", "", true},
	} {
		t.Run(volume, func(t *testing.T) {
			t.Cleanup(func() { _, _ = w.docker.Exec(t.Context(), "volume", "rm", "-f", volume) })
			w.live(t, ec2.Container{Image: "attacker", Role: c.maker, Network: network, Options: shared(volume), Args: []string{"give", "/shared/s"}})
			got := w.attack(t, ec2.Container{Role: c.user, Network: network, Options: shared(volume)}, "take", "/shared/s")
			if c.served {
				wantCredentials(t, got, cloud.TaskReader)
			} else {
				wantNotTheirs(t, got)
			}
		})
	}
}

// The cgroup a socket was made in decides. Only root on the host moves a process from one container's to another's.
func TestAProcessThatMovedOutOfTheContainerIsNotTheContainers(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.importAttacker(t)
	dir := filepath.Join(w.dir, "run/moved") // the engine sees what is below run
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go-away", "stay"} {
		id := w.live(t, ec2.Container{
			Image: "attacker", Role: "reader", Network: ec2.NetworkNone, Args: []string{"ask-on", "/go/" + name},
			Options: []string{"--mount=type=bind,src=" + dir + ",dst=/go"},
		})
		if name == "go-away" {
			procs := filepath.Join(actor.NewCgroup(t), "cgroup.procs")
			if err := os.WriteFile(procs, []byte(strconv.Itoa(w.pid(t, id))), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		w.must(t, "wait", id)
		if got := w.must(t, "logs", id); name == "go-away" {
			wantNotTheirs(t, got)
		} else {
			wantCredentials(t, got, cloud.TaskReader)
		}
	}
}

func TestAContainerThatTakesOursAwayHarmsItselfAlone(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.importAttacker(t)
		neighbour := w.live(t, ec2.Container{Role: "writer", Network: ec2.NetworkBridge})
		for attack, c := range map[string]struct{ capability, missing string }{
			"remove-address": {"NET_ADMIN", "169.254.170.2"},
			"detach-program": {"SYS_ADMIN", "program"},
		} {
			pause := w.live(t, ec2.Container{Network: ec2.NetworkNone})
			network := ec2.Network("container:" + pause)
			victim := w.live(t, ec2.Container{Role: "reader", Network: network})
			w.attack(t, ec2.Container{Network: network, Options: []string{"--cap-add=" + c.capability}}, attack)
			if got := w.credentialsOf(t, victim); strings.Contains(got, "200 OK") {
				t.Errorf("after %s the container has %.100s", attack, got)
			}
			wantCredentials(t, w.credentialsOf(t, neighbour), cloud.TaskWriter)
			found := map[string]string{}
			for _, a := range w.attached(t) {
				found[string(a.ID)] = a.Missing
			}
			if !strings.Contains(found[victim], c.missing) || found[neighbour] != "" {
				t.Errorf("after %s the list says what is missing: %v", attack, found)
			}
			wantRole(t, w.run(t, "reader", ec2.NetworkBridge), cloud.TaskReader)
			w.must(t, "kill", victim)
			eventually(t, func() error {
				if n := len(w.attached(t)); n != 1 {
					return fmt.Errorf("%d attached", n)
				}
				return nil
			})
		}
	})
}
