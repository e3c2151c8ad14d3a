//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/probe/report"
)

// starts is how many containers BenchmarkStart starts of each kind.
const starts = 20

// BenchmarkStart measures what a role adds to a container's start: the medians of 20 starts with and of 20 without,
// and of the differences of the pairs. They alternate, and take turns in being first, so that both see the same machine.
func BenchmarkStart(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			w := use(b, worlds[e.name])
			for b.Loop() {
				var plain, role, added []time.Duration
				start := func(role string) time.Duration {
					return w.start(b, ec2.Container{Network: ec2.NetworkNone, Role: role, Args: []string{"sleep", "0s"}}).Elapsed
				}
				start("")
				start("reader") // the first of each fills caches
				for n := range starts {
					var p, r time.Duration
					if n%2 == 0 {
						p, r = start(""), start("reader")
					} else {
						r, p = start("reader"), start("")
					}
					plain, role, added = append(plain, p), append(role, r), append(added, r-p)
				}
				b.ReportMetric(milliseconds(median(plain)), "ms/plain-start")
				b.ReportMetric(milliseconds(median(role)), "ms/role-start")
				b.ReportMetric(milliseconds(median(added)), "ms/added")
			}
		})
	}
}

// crowd is how many containers BenchmarkMemory keeps attached.
const crowd = 100

// BenchmarkMemory reads the agent's resident memory before and with 100 attached containers.
func BenchmarkMemory(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			w := use(b, worlds[e.name])
			for b.Loop() {
				if err := w.restartAgent(b); err != nil {
					b.Fatal(err)
				}
				idle := w.resident(b)
				for range crowd {
					w.live(b, ec2.Container{Network: ec2.NetworkNone, Role: "reader"})
				}
				if n := len(w.attached(b)); n != crowd {
					b.Fatalf("%d containers are attached, want %d", n, crowd)
				}
				b.ReportMetric(idle, "MB-RSS/0-containers")
				b.ReportMetric(w.resident(b), fmt.Sprintf("MB-RSS/%d-containers", crowd))
			}
		})
	}
}

func (w *world) restartAgent(b *testing.B) error {
	b.Helper()
	if err := w.stopAgent(os.Interrupt); err != nil {
		return err
	}
	return w.startAgent(b.Context())
}

// resident is the agent's VmRSS in megabytes.
func (w *world) resident(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.agent.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kilobytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kilobytes / 1024
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// races is how many containers BenchmarkLate starts on each network.
const races = 40

// BenchmarkLate measures how long a container that asks by label runs before it finds its role, and how often the host's
// was what it found first. Each asks from its first moment on.
func BenchmarkLate(b *testing.B) {
	for _, e := range engines {
		for _, network := range []ec2.Network{ec2.NetworkNone, ec2.NetworkBridge} {
			b.Run(e.name+"/"+string(network), func(b *testing.B) {
				w := use(b, worlds[e.name])
				for b.Loop() {
					var waits []time.Duration
					host, first := 0, 0
					for range races {
						r := w.start(b, ec2.Container{Network: network, Labels: map[string]string{"taskrole": "reader"}, Args: []string{"race", cloud.TaskReader}})
						var race report.Race
						if err := json.Unmarshal(r.Stdout, &race); err != nil {
							b.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
						}
						waits = append(waits, time.Duration(race.Seconds*float64(time.Second)))
						if race.First != cloud.TaskReader {
							host++
						}
						if race.Unanswered+race.Others == 0 {
							first++
						}
					}
					b.ReportMetric(milliseconds(median(waits)), "ms/window-p50") // and sorts
					b.ReportMetric(milliseconds(waits[len(waits)*99/100]), "ms/window-p99")
					b.ReportMetric(float64(host), fmt.Sprintf("host-first/%d", races))
					b.ReportMetric(float64(first), fmt.Sprintf("at-once/%d", races))
				}
			})
		}
	}
}
