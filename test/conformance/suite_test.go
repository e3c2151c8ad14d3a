//go:build conformance

package conformance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/control"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/test/conformance"
)

// atOnce is how many containers may be between their start and their first listing: more would measure each other.
const atOnce = 2

// job is one cell that runs.
type job struct {
	w    *world
	c    client
	path conformance.Path
	cell *conformance.Cell
}

// TestConformance is the table. Those that must wait long start first; while they wait the others run, with sessions
// that end in seconds.
func TestConformance(t *testing.T) {
	t.Parallel()
	ctx := interrupted(t)
	for _, c := range clients() {
		if why := c.notBuilt(); *require && selected(*only, c.name) && c.notRun == "" && why != "" {
			t.Errorf("%s: %s", c.name, why)
		}
	}
	var worlds []*world
	for _, e := range engines() {
		worlds = append(worlds, begin(t, e))
	}
	jobs, cells := plan(worlds)
	if !*table {
		jobs = nil
	}
	prepare(t, worlds)
	var watching sync.WaitGroup
	for _, w := range worlds {
		w.withoutIPv6(t, jobs)
	}
	jobs = slices.DeleteFunc(jobs, func(j job) bool { return j.cell.NotRun != "" })
	watch, stop := context.WithCancel(ctx)
	defer watching.Wait()
	defer stop()
	for _, w := range worlds {
		watching.Go(func() { w.watch(watch) })
	}

	patient := func(j job) bool { return j.c.waits(j.path) != patience() }
	gate := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	start := func(limit time.Duration, which func(job) bool) {
		for _, w := range worlds {
			w.cloud.LimitSessions(limit)
		}
		var begun sync.WaitGroup
		for _, j := range jobs {
			if which(j) {
				begun.Add(1)
				running.Go(func() { j.run(ctx, gate, sync.OnceFunc(begun.Done)) })
			}
		}
		begun.Wait() // each has its first credentials
	}
	start(patientLife, patient)
	began := time.Now()
	start(*life, func(j job) bool { return !patient(j) })
	t.Logf("the quick ones took %v to begin", time.Since(began).Round(time.Second))
	verdicts := vectors(ctx, t, worlds) // while the patient ones wait
	tokens := tokenStep(ctx, t, worlds)
	running.Wait()

	r := conformance.Report{
		Date: time.Now().UTC().Format(time.DateOnly), Kernel: kernel(), Complete: *only == "" && *onlyOn == "" && *slow && ctx.Err() == nil,
		Verdicts: verdicts, Tokens: tokens, Outage: saidInOutage(),
	}
	for _, w := range worlds {
		r.Engines = append(r.Engines, w.name)
	}
	for _, c := range clients() {
		if selected(*only, c.name) {
			r.Clients = append(r.Clients, c.name)
		}
	}
	if *table {
		for _, c := range cells {
			r.Cells = append(r.Cells, *c)
		}
	} else {
		r = again(t, r)
	}
	write(t, r)
	judge(t, r)
	if t.Failed() {
		for _, w := range worlds {
			t.Logf("the agent of %s:\n%s", w.name, w.log())
		}
	}
}

// again is the last report, with new verdicts if there are any.
func again(t *testing.T, r conformance.Report) conformance.Report {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(*results, "conformance.json"))
	var last conformance.Report
	if err := errors.Join(err, json.Unmarshal(text, &last)); err != nil {
		t.Fatal(err)
	}
	if r.Verdicts != nil {
		last.Verdicts = r.Verdicts
	}
	if r.Tokens != nil {
		last.Tokens = r.Tokens
	}
	if r.Outage != nil {
		last.Outage = r.Outage
	}
	return last
}

// plan makes the cells, and a job for each that runs.
func plan(worlds []*world) (jobs []job, cells []*conformance.Cell) {
	for _, c := range clients() {
		if !selected(*only, c.name) {
			continue
		}
		for _, path := range conformance.Paths() {
			for _, w := range worlds {
				cell := &conformance.Cell{Client: c.name, Path: path, Engine: w.name, NotRun: c.cannot(path), Known: c.known[path]}
				cells = append(cells, cell)
				if cell.NotRun == "" {
					jobs = append(jobs, job{w, c, path, cell})
				}
			}
		}
	}
	return jobs, cells
}

// prepare gives the engines the images that are wanted.
func prepare(t *testing.T, worlds []*world) {
	t.Helper()
	roots := map[string]bool{}
	for _, c := range clients() {
		if selected(*only, c.name) && c.cannot(conformance.ECS) == "" {
			roots[c.root] = true
		}
	}
	for _, root := range slices.Sorted(maps.Keys(roots)) {
		for _, w := range worlds {
			if err := w.importRoot(t.Context(), root); err != nil {
				t.Fatalf("import %s into %s: %v", root, w.name, err)
			}
		}
	}
}

// withoutIPv6 takes IPv6 out of the plan where the engine's containers without a network have none: Docker before 27
// turns it off in every namespace that has no network with IPv6.
func (w *world) withoutIPv6(t *testing.T, jobs []job) {
	t.Helper()
	for _, j := range jobs {
		if j.w != w || j.path != conformance.IMDS6 {
			continue
		}
		r, err := w.docker.Run(t.Context(), ec2.Container{
			Image: j.c.root, Network: ec2.NetworkNone, Args: []string{"cat", "/proc/sys/net/ipv6/conf/lo/disable_ipv6"},
		})
		if err != nil || r.Exit != 0 {
			t.Fatalf("look for IPv6 on %s: %v %s", w.name, err, r.Stderr)
		}
		if strings.TrimSpace(string(r.Stdout)) == "0" {
			return
		}
		for _, j := range jobs {
			if j.w == w && j.path == conformance.IMDS6 {
				j.cell.NotRun = "this engine turns IPv6 off in a container without a network"
			}
		}
		return
	}
}

// run fills the cell. begun is called when the client has made its first listing, or never will.
func (j job) run(ctx context.Context, gate chan struct{}, begun func()) {
	defer begun()
	gate <- struct{}{}
	release := sync.OnceFunc(func() { <-gate })
	defer release()
	j.cell.Waited = j.c.waits(j.path)
	b, err := j.w.start(ctx, j.c, role(j.path), environment(j.path), j.cell.Waited)
	if err != nil {
		j.cell.Error = err.Error()
		return
	}
	defer b.remove(ctx)
	first, err := b.line(ctx, 1, time.Minute)
	if err != nil {
		j.cell.Error = err.Error()
		return
	}
	release()
	begun()
	j.cell.SDK, j.cell.First = first.sdk, first.took
	j.cell.Found, j.cell.Error = first.found()
	session, err := b.session(ctx)
	if err != nil {
		j.cell.Error = err.Error()
		return
	}
	second, err := b.later(ctx, j.cell.Waited)
	if err != nil {
		j.cell.Error = err.Error()
		return
	}
	ok, why := second.found()
	keys := j.w.settled(ctx, session)
	// The trail says so for every client; what STS told the client must agree.
	j.cell.Identity = len(keys) > 0
	for _, l := range []line{first, second} {
		if l.arn != "" && !strings.HasSuffix(l.arn, ":assumed-role/"+cloud.TaskReader+"/"+session) {
			j.cell.Identity, j.cell.Error = false, "STS says that it is "+l.arn
		}
	}
	j.cell.Rotated = ok && len(keys) > 1
	switch {
	case j.cell.Error != "":
	case why != "":
		j.cell.Error = fmt.Sprintf("after %v: %s", j.cell.Waited, why)
	case len(keys) < 2:
		j.cell.Error = fmt.Sprintf("after %v: the same access key", j.cell.Waited)
	}
}

// settled waits until the watcher has seen what has just happened.
func (w *world) settled(ctx context.Context, session string) map[string]bool {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return w.signedBy(session)
}

// box is a running client.
type box struct {
	w    *world
	name string
	id   string
}

// start runs a client in a container with a role and without a network.
func (w *world) start(ctx context.Context, c client, role string, env []string, wait time.Duration, extra ...string) (*box, error) {
	return w.launch(ctx, c, ec2.Container{Network: ec2.NetworkNone, Role: role, Way: w.way}, env, wait, extra...)
}

// launch runs a client in such a container.
func (w *world) launch(ctx context.Context, c client, in ec2.Container, env []string, wait time.Duration, extra ...string) (*box, error) {
	b := &box{w: w, name: "c-" + rand.Text()[:12]}
	in.Name, in.Image, in.Detach, in.Files = b.name, c.root, true, map[string]string{built(c.name): "/client"}
	in.Env = append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "AWS_ENDPOINT_URL=" + w.instance.ServicesURL(),
		"CONFORMANCE_BUCKET=" + cloud.Reports, "CONFORMANCE_WAIT=" + strconv.Itoa(int(wait.Seconds())),
	}, extra...)
	in.Args = append(append([]string{"env"}, env...), "/client/run")
	r, err := w.docker.Run(ctx, in)
	if err == nil && r.Exit != 0 {
		b.remove(ctx)
		err = errors.New(oneLine(string(r.Stderr)))
	}
	b.id = strings.TrimSpace(string(r.Stdout))
	return b, err
}

func (b *box) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, _ = b.w.docker.Exec(ctx, "rm", "-f", "-v", b.name) // what stays is removed with the engine
}

// session is the name of the session that the agent made for the container.
func (b *box) session(ctx context.Context) (string, error) {
	l, err := control.List(ctx, b.w.socket())
	if err != nil {
		return "", err
	}
	for _, a := range l.Containers {
		if string(a.ID) == b.id {
			return a.Session, nil
		}
	}
	return "", fmt.Errorf("the container has ended: %s", oneLine(b.output(ctx)))
}

func (b *box) output(ctx context.Context) string {
	r, err := b.w.docker.Exec(ctx, "logs", b.name)
	if err != nil {
		return err.Error()
	}
	return string(r.Stdout) + string(r.Stderr)
}

// line is what a client prints after a listing: round=1 ms=12 sdk=… arn=… key=…, or round=1 error=….
type line struct {
	sdk, arn, key, failure string
	took                   time.Duration
}

// found says whether the bucket was listed, and what was said otherwise.
func (l line) found() (bool, string) {
	switch {
	case l.failure != "":
		return false, l.failure
	case !strings.Contains(l.key, "november.csv"):
		return false, fmt.Sprintf("the bucket's first key is %q", l.key)
	}
	return true, ""
}

// line waits for the line of a round. A client that ends without it has failed; the error has its last words.
func (b *box) line(ctx context.Context, round int, limit time.Duration) (line, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := false
	for {
		out := b.output(ctx)
		for text := range strings.Lines(out) {
			if rest, ok := strings.CutPrefix(text, "round="+strconv.Itoa(round)+" "); ok && strings.HasSuffix(text, "\n") {
				return parse(rest), nil
			}
		}
		if ended {
			return line{}, fmt.Errorf("no round %d: %s", round, oneLine(out))
		}
		select {
		case <-ctx.Done():
			return line{}, fmt.Errorf("no round %d within %v: %s", round, limit, oneLine(out))
		case <-time.After(500 * time.Millisecond):
		}
		r, err := b.w.docker.Exec(ctx, "inspect", "--format={{.State.Running}}", b.name)
		ended = err == nil && strings.TrimSpace(string(r.Stdout)) == "false"
	}
}

// later is the line of the second round, which the client begins after wait. Nobody looks before: asking the engine for what
// a hundred sleeping containers have said would keep the machine busy.
func (b *box) later(ctx context.Context, wait time.Duration) (line, error) {
	select {
	case <-ctx.Done():
		return line{}, ctx.Err()
	case <-time.After(wait):
	}
	return b.line(ctx, 2, time.Minute)
}

func parse(text string) line {
	var l line
	for text = strings.TrimSpace(text); text != ""; {
		name, rest, _ := strings.Cut(text, "=")
		if name == "error" {
			l.failure = oneLine(rest)
			return l
		}
		var value string
		value, text, _ = strings.Cut(rest, " ")
		switch name {
		case "ms":
			ms, _ := strconv.Atoi(value) // 0 is shown as no time
			l.took = time.Duration(ms) * time.Millisecond
		case "sdk":
			l.sdk = strings.ReplaceAll(value, "/", " ")
		case "arn":
			l.arn = value
		case "key":
			l.key = value
		}
	}
	return l
}

// oneLine is the end of what a client said, which is where the reason is.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 300
	if len(s) > most {
		s = "…" + strings.ToValidUTF8(s[len(s)-most:], "")
	}
	return s
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(u.Release[:])
}

// write keeps the results, and the page of a complete run.
func write(t *testing.T, r conformance.Report) {
	t.Helper()
	var text, machine, markdown bytes.Buffer
	notes, err := os.ReadFile("notes.md")
	if err := errors.Join(err, r.Text(&text), r.JSON(&machine), r.Markdown(&markdown, string(notes))); err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdout.Write(text.Bytes())
	files := map[string][]byte{
		filepath.Join(*results, "conformance.txt"): text.Bytes(), filepath.Join(*results, "conformance.json"): machine.Bytes(),
		filepath.Join(*results, "conformance.md"): markdown.Bytes(),
	}
	if r.Complete && *page != "" {
		files[*page] = markdown.Bytes()
	}
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// judge makes a test of every cell.
func judge(t *testing.T, r conformance.Report) {
	t.Helper()
	for what, verdicts := range map[string][]conformance.Verdict{"whose": r.Verdicts, "token": r.Tokens} {
		for _, v := range verdicts {
			t.Run(what+"/"+strings.ReplaceAll(v.Environment, " ", "_"), func(t *testing.T) {
				for client, got := range v.Got {
					if want := v.Want[client]; got != want {
						t.Errorf("%s: %s, the contract says %s: %s", client, got, want, v.Notes[client])
					}
				}
			})
		}
	}
	for _, c := range r.Cells {
		if c.NotRun != "" {
			continue // the report says so and why, and -require fails where it should have run
		}
		t.Run(fmt.Sprintf("%s/%s/%s", c.Engine, c.Client, strings.ReplaceAll(string(c.Path), " ", "_")), func(t *testing.T) {
			switch {
			case c.Known != "" && c.Passed():
				t.Errorf("it passes, although it is known to fail: %s", c.Known)
			case c.Known != "":
				t.Logf("known to fail: %s (%s)", c.Error, c.Known)
			case !c.Passed():
				t.Errorf("found %t, identity %t, rotated %t: %s", c.Found, c.Identity, c.Rotated, c.Error)
			}
		})
	}
}
