package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"taskrole/internal/address"
	"taskrole/lab/cloud"
)

// The loads. Sixteen clients are what the peers were measured with.
const (
	workers     = 16
	newRequests = 6_000 // a round
	keepRequest = 40_000
	crowd       = 100
	burst       = 1_000
	bigCrowd    = 300
	coldCall    = 500 * time.Millisecond // how long STS takes for a cold key
	staleLife   = 6 * time.Second        // of the session that is to become stale: renewed after 1.8 to 3 s
	staleCall   = 2 * time.Second        // how long its renewal takes
	settle      = 2 * time.Second        // before memory is read
	breath      = 50 * time.Millisecond  // for what a start of a container leaves to do, in the bench itself
	warmUp      = 10                     // containers before the first that counts
)

// bench is a run.
type bench struct {
	*world

	rounds  int
	say     func(string)
	figures []figure

	ours, bare *box
	floorPID   int
}

func (b *bench) add(f figure) { b.figures = append(b.figures, f) }

// The steps that the others need: the agent, and the two containers.
const (
	stepIdle = "memory while idle"
	stepPair = "one container, and the bare handler in another"
)

// measureAll returns the figures it got, also when it could not get all.
// Of the steps that nothing after them needs it does those whose name contains only.
func measureAll(ctx context.Context, bin, only string, rounds int, say func(string)) (_ []figure, err error) {
	w, err := launch(ctx, bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }() //nolint:contextcheck // what is taken down does not end with ctx
	b := &bench{world: w, rounds: rounds, say: say}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{stepIdle, b.idle},
		{stepPair, b.pair},
		{"first credential", b.firstCredential},
		{"processor time", b.processorTime},
		{"memory after load", b.afterLoad},
		{"a burst", b.bursts},
		{"a cold key", b.cold},
		{"a stale key", b.stale},
		{"many containers", b.many},
	} {
		if needed := step.what == stepIdle || step.what == stepPair; !needed && !strings.Contains(step.what, only) {
			continue
		}
		say(step.what)
		if err := step.do(ctx); err != nil {
			return b.figures, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return b.figures, nil
}

// idle reads the memory of an agent without containers.
func (b *bench) idle(ctx context.Context) error {
	if err := b.startAgent(ctx); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	kib, err := resident(b.agent.Process.Pid)
	b.add(figure{what: "memory: RSS idle", unit: "MiB", ours: kib / kibPerMiB, most: 16})
	return err
}

// pair starts the two containers that are compared.
func (b *bench) pair(ctx context.Context) (err error) {
	if b.ours, err = b.world.add(ctx); err != nil {
		return err
	}
	if err := b.hook(ctx, b.ours, role); err != nil {
		return err
	}
	a, err := b.ours.do(one(role))
	if err != nil || a.OK != 1 {
		return fmt.Errorf("the role does not answer: %s: %w", a.FirstFailure, errors.Join(err))
	}
	if b.bare, err = b.world.add(ctx); err != nil {
		return err
	}
	cmd, err := b.floor(ctx, b.bare, a.Body)
	if err != nil {
		return err
	}
	b.floorPID = cmd.Process.Pid
	return errors.Join(b.ours.roomy(), b.bare.roomy())
}

// load is a load on the address that both servers have.
func load(role string, workers, requests int, keep bool) order {
	return order{
		Addr: address.ECS.String(), Path: address.CredentialsPath(role), Workers: workers, Requests: requests / workers, Keep: keep,
	}
}

func one(role string) order { return load(role, 1, 1, false) }

// both does the same in both containers, and takes turns in who is first.
func (b *bench) both(round int, do func(c *box, pid int) (float64, error)) (ours, bare float64, err error) {
	us := func() error {
		var err error
		ours, err = do(b.ours, b.agent.Process.Pid)
		return err
	}
	them := func() error {
		var err error
		bare, err = do(b.bare, b.floorPID)
		return err
	}
	if round%2 == 0 {
		return ours, bare, errors.Join(us(), them())
	}
	err = errors.Join(them(), us())
	return ours, bare, err
}

// rounds compares both again and again and gives the medians, of the ratios of each round too.
func (b *bench) compare(rounds int, do func(c *box, pid int) (float64, error)) (figure, error) {
	var ours, bare, ratios []float64
	for n := range rounds {
		o, f, err := b.both(n, do)
		if err != nil {
			return figure{}, err
		}
		ours, bare, ratios = append(ours, o), append(bare, f), append(ratios, o/f)
	}
	return figure{ours: median(ours), bare: median(bare), ratio: median(ratios), compared: true}, nil
}

// processorTime compares what a request costs the server.
func (b *bench) processorTime(context.Context) error {
	for _, c := range []struct {
		what     string
		requests int
		keep     bool
		most     float64
	}{
		{"CPU a request: new connection each, attested", newRequests, false, 1.5},
		{"CPU a request: keep-alive", keepRequest, true, 1.2},
	} {
		o := load(role, workers, c.requests, c.keep)
		cost := func(c *box, pid int) (float64, error) {
			before, err := cpuTime(pid)
			if err != nil {
				return 0, err
			}
			a, err := c.do(o)
			if err == nil && a.Failed > 0 {
				err = fmt.Errorf("%d requests failed: %s", a.Failed, a.FirstFailure)
			}
			if err != nil {
				return 0, err
			}
			after, err := cpuTime(pid)
			return float64((after - before).Nanoseconds()) / float64(a.OK) / 1e3, err
		}
		if _, _, err := b.both(0, cost); err != nil { // fills caches
			return err
		}
		f, err := b.compare(b.rounds, cost)
		if err != nil {
			return err
		}
		f.what, f.unit, f.most, f.byRatio = c.what, "µs", c.most, true
		b.add(f)
	}
	return nil
}

// firstCredential times a process in the container from before its fork until it has the credential. It is the first
// of a container each time: the agent is new to it, and only its own program is in the machine's caches.
func (b *bench) firstCredential(ctx context.Context) error {
	const fresh = 15
	o := one(role)
	program, err := os.Executable()
	if err != nil {
		return err
	}
	o.Fresh = program + "-fetch" // as make bench builds it
	f, err := b.compare(fresh, func(c *box, pid int) (float64, error) {
		if pid == b.agent.Process.Pid {
			var err error
			if c, err = b.world.add(ctx); err != nil {
				return 0, err
			}
			if err := b.hook(ctx, c, role); err != nil {
				return 0, err
			}
		}
		if err := pause(ctx, breath); err != nil {
			return 0, err
		}
		a, err := c.do(o)
		return milliseconds(a.Median), err
	})
	f.what, f.unit, f.most = "first credential of a fresh container, from the start of its process", "ms", 5
	b.add(f)
	return err
}

// bursts opens a thousand connections at once.
func (b *bench) bursts(ctx context.Context) error {
	var lost int
	var why string
	f, err := b.compare(b.rounds, func(c *box, pid int) (float64, error) {
		a, err := c.do(load(role, burst, burst, false))
		if pid == b.agent.Process.Pid {
			lost += a.Failed
			why = a.FirstFailure
		}
		return milliseconds(a.Max), err
	})
	if err != nil {
		return err
	}
	if why != "" {
		b.say("a request of the burst failed: " + why)
	}
	b.add(figure{what: fmt.Sprintf("burst of %d connections: refused, of %d rounds together", burst, b.rounds), unit: "", ours: float64(lost)})
	f.what, f.unit, f.noBudget = "burst: the last answer after", "ms", true
	b.add(f)
	f, err = b.memory(ctx)
	f.what, f.noBudget = "memory: RSS after the bursts", true
	b.add(f)
	return err
}

// memory reads that of both servers.
func (b *bench) memory(ctx context.Context) (figure, error) {
	if err := pause(ctx, settle); err != nil {
		return figure{}, err
	}
	ours, err1 := resident(b.agent.Process.Pid)
	bare, err2 := resident(b.floorPID)
	return figure{unit: "MiB", ours: ours / kibPerMiB, bare: bare / kibPerMiB, ratio: ours / bare, compared: true}, errors.Join(err1, err2)
}

// afterLoad is after the load the peers were measured with.
func (b *bench) afterLoad(ctx context.Context) error {
	f, err := b.memory(ctx)
	f.what, f.most = "memory: RSS after load", 22
	b.add(f)
	return err
}

// stampede attaches a crowd of new containers at once and returns the longest wait.
func (b *bench) stampede(ctx context.Context, role string) (time.Duration, error) {
	var boxes []*box
	for range crowd {
		c, err := b.world.add(ctx)
		if err != nil {
			return 0, err
		}
		boxes = append(boxes, c)
	}
	waits, errs := make([]time.Duration, crowd), make([]error, crowd)
	var done sync.WaitGroup
	for i, c := range boxes {
		done.Go(func() {
			begin := time.Now()
			errs[i] = b.attach(ctx, c, role)
			waits[i] = time.Since(begin)
		})
	}
	done.Wait()
	return slices.Max(waits), errors.Join(errs...)
}

// cold asks for one key from a crowd of containers at once: as containers that share a session do when they start
// together. What they wait without STS is taken from a second crowd, whose key is warm.
func (b *bench) cold(ctx context.Context) error {
	c, err := b.world.add(ctx)
	if err != nil {
		return err
	}
	if err := b.attach(ctx, c, roleWarm); err != nil {
		return err
	}
	warm, err := b.stampede(ctx, roleWarm)
	if err != nil {
		return err
	}
	if err := b.slowSTS(coldCall); err != nil {
		return err
	}
	before := b.calls()
	cold, err := b.stampede(ctx, roleCold)
	b.cloud.ClearFaults("sts")
	if err != nil {
		return err
	}
	b.add(figure{what: fmt.Sprintf("%d clients at once on a cold key: STS calls", crowd), ours: float64(b.calls() - before), most: 1})
	b.add(figure{
		what: fmt.Sprintf("the longest wait of them for a call of %v, beyond %.0f ms on a warm key", coldCall, milliseconds(warm)),
		unit: "ms", ours: milliseconds(max(0, cold-warm)), most: milliseconds(coldCall),
	})
	return nil
}

func (b *bench) slowSTS(d time.Duration) error {
	return b.cloud.SetFault(cloud.Fault{Service: "sts", Action: "AssumeRole", Kind: cloud.Latency, Delay: cloud.Duration(d)})
}

func (b *bench) calls() int { return b.cloud.Calls().Counts["sts"]["AssumeRole"] }

// stale asks for credentials while their renewal hangs.
func (b *bench) stale(ctx context.Context) error {
	c, err := b.world.add(ctx)
	if err != nil {
		return err
	}
	b.cloud.LimitSessions(staleLife)
	begin := time.Now()
	err = b.attach(ctx, c, roleStale)
	b.cloud.LimitSessions(0)
	if err != nil {
		return err
	}
	if err := b.slowSTS(staleCall); err != nil {
		return err
	}
	defer b.cloud.ClearFaults("sts")
	before := b.calls()
	old, err := c.do(one(roleStale))
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Until(begin.Add(staleLife/2+200*time.Millisecond))); err != nil {
		return err
	}
	during, err := c.do(load(roleStale, crowd, crowd, false))
	if err != nil {
		return err
	}
	// The call has been made but not answered, or this says nothing.
	if b.calls() != before || during.Failed > 0 || during.Bodies != 1 || string(during.Body) != string(old.Body) {
		return fmt.Errorf("the renewal was not under way: %d calls answered, %d requests failed (%s), %d different answers",
			b.calls()-before, during.Failed, during.FirstFailure, during.Bodies)
	}
	bare, err := b.bare.do(load(role, crowd, crowd, false))
	if err != nil {
		return err
	}
	const tries = 40
	for range tries {
		if b.calls() > before {
			break
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if err := pause(ctx, 100*time.Millisecond); err != nil {
		return err
	}
	after, err := c.do(one(roleStale))
	if err == nil && string(after.Body) == string(old.Body) {
		err = errors.New("the credentials were not renewed")
	}
	b.add(figure{
		what: fmt.Sprintf("%d clients at once on a stale key: the longest wait while its renewal takes %v", crowd, staleCall),
		unit: "ms", ours: milliseconds(during.Max), bare: milliseconds(bare.Max), ratio: float64(during.Max) / float64(bare.Max), compared: true,
		most: milliseconds(staleCall) / 20, //nolint:mnd // nobody waits for the call; they are a hundred on few processors
	})
	return err
}

// many reads what each further container costs a fresh agent. Each has a session and so a key of its own.
func (b *bench) many(ctx context.Context) error {
	if err := b.empty(); err != nil {
		return err
	}
	if err := b.startAgent(ctx); err != nil {
		return err
	}
	var first, last float64 // what it had with warmUp, and at the step before
	for _, total := range []int{warmUp, warmUp + crowd, warmUp + bigCrowd} {
		for len(b.boxes) < total {
			c, err := b.world.add(ctx)
			if err != nil {
				return err
			}
			if err := b.attach(ctx, c, role); err != nil {
				return err
			}
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		kib, err := resident(b.agent.Process.Pid)
		if err != nil {
			return err
		}
		each := func(what string, since float64, containers int) {
			b.add(figure{what: fmt.Sprintf(what, containers), unit: "KiB", ours: (kib - since) / float64(containers), most: 12})
		}
		switch further := total - warmUp; further {
		case 0:
			first = kib
		case bigCrowd:
			each("memory: RSS of each further container, of %d", first, further)
			each("memory: RSS of each of the last %d of these", last, bigCrowd-crowd)
		default:
			each("memory: RSS of each further container, of %d", first, further)
		}
		last = kib
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

const kibPerMiB = 1 << 10
