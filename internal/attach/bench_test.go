package attach_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/netns"
	"taskrole/internal/testkit/actor"
)

// BenchmarkAttach is one attach, and says what it leaves in the agent's memory while the container lives: on the heap
// and in stacks. Credentials and HTTP are not in it.
func BenchmarkAttach(b *testing.B) {
	a := newAttacher(b, 0, func(c net.Conn) { _ = c.Close() })
	process := actor.StartHere(b)
	handle := func(c net.Conn) { _ = c.Close() }
	var targets []attach.Target
	for i := range b.N {
		p, err := attest.OpenProcess(process.PID())
		if err != nil {
			b.Fatal(err)
		}
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		targets = append(targets, attach.Target{ID: container.ID(fmt.Sprintf("c%d", i)), Role: "reader", Process: p, NS: ns})
	}
	s := attach.Service{Destinations: destinations, Handle: handle}
	before := inUse()
	b.ResetTimer()
	for _, t := range targets {
		if _, _, err := a.Attach(b.Context(), t, func(context.Context) (attach.Service, error) { return s, nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	after := inUse()
	b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/float64(b.N), "heap-B/op")
	b.ReportMetric(float64(after.StackInuse-before.StackInuse)/float64(b.N), "stack-B/op")
	runtime.KeepAlive(targets)
	a.Close()
}

func inUse() runtime.MemStats {
	var m runtime.MemStats
	for range 3 { // stacks shrink by one half in each
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
