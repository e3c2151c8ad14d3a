//go:build integration

package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"taskrole/internal/address"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// The limits of the doctor: where nothing hangs, and where everything does.
const (
	quick   = 2.0
	hanging = 5.0
)

// silent is a Unix socket that takes connections and never answers.
func silent(t *testing.T, path string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(t.Context()), "unix", path)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return path
}

// TestDoctorIsQuick where nothing hangs, and bounded where everything does: the container's endpoint, the metadata
// service, STS, the agent and the engine.
func TestDoctorIsQuick(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	const times = 5
	well := w.live(t, ec2.Container{Role: "reader", Name: "doctor-quick", Env: regions})
	stuck := w.live(t, ec2.Container{Name: "doctor-stuck", Env: append([]string{relative}, regions...)})
	w.lose(t, stuck, address.ECS.Addr(), address.IMDS.Addr(), address.PodIdentity.Addr())
	check(t, w.cloud.SetFault(cloud.Fault{Service: "sts", Kind: cloud.Latency, Delay: cloud.Duration(time.Minute)}))
	defer w.cloud.ClearFaults("sts")
	dir := filepath.Join(w.dir, "run")
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := strings.NewReplacer(w.socket(), silent(t, filepath.Join(dir, "mute.sock")), w.docker.Host(), "unix://"+silent(t, filepath.Join(dir, "still.sock"))).Replace(w.config())
	check(t, os.WriteFile(config, []byte(text), 0o600))
	pid := fmt.Sprintf("--pid=%d", w.pid(t, stuck))
	for _, c := range []struct {
		name  string
		limit float64
		args  []string
	}{
		{"nothing hangs, by name", quick, []string{"--config=" + w.configPath(), "--sdk=all", well}},
		{"nothing hangs, by process", quick, []string{"--config=" + w.configPath(), fmt.Sprintf("--pid=%d", w.pid(t, well))}},
		{"nothing hangs, the host", quick, []string{"--config=" + w.configPath()}},
		{"everything hangs, by process", hanging, []string{"--config=" + config, "--sdk=all", pid}},
		{"everything hangs, by name", hanging, []string{"--config=" + config, "--sdk=all", "doctor-stuck"}},
		{"everything hangs, the host", hanging, []string{"--config=" + config}},
	} {
		n := times
		if c.limit == hanging {
			n = 1
		}
		var took []float64
		for range n {
			begun := time.Now()
			cmd, out := w.command(append([]string{"doctor"}, c.args...)...)
			check(t, w.instance.Start(cmd))
			_ = cmd.Wait() // it may find something
			took = append(took, time.Since(begun).Seconds())
			if cmd.ProcessState.ExitCode() > 1 || out.Len() == 0 {
				t.Errorf("%s: exit %d, %s", c.name, cmd.ProcessState.ExitCode(), out)
			}
		}
		slices.Sort(took)
		t.Logf("%s: median %.2f s, longest %.2f s", c.name, took[len(took)/2], took[len(took)-1])
		if took[len(took)-1] > c.limit {
			t.Errorf("%s took %.2f s, want at most %.0f", c.name, took[len(took)-1], c.limit)
		}
	}
}
