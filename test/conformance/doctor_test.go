//go:build conformance

package conformance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/diagnose"
	"taskrole/lab/ec2"
	"taskrole/test/conformance"
)

// chainOf is the chain by which the doctor knows a client.
var chainOf = map[string]diagnose.SDK{
	"boto3": diagnose.Botocore, "boto3-debian": diagnose.Botocore, "awscli1": diagnose.Botocore, "awscli2": diagnose.CLIv2,
	"go-v2": diagnose.GoV2, "go-v1": diagnose.GoV1, "js-v3": diagnose.JSv3, "js-v2": diagnose.JSv2, "java-v2": diagnose.JavaV2,
	"java-v1": diagnose.JavaV1, "rust": diagnose.Rust, "ruby": diagnose.Ruby, imdsv1: diagnose.IMDSv1,
}

// imdsv1 is a client of this test alone: a script as people wrote it before IMDSv2.
const (
	imdsv1       = "imdsv1-only"
	imdsv1Script = `#!/bin/sh
base=http://169.254.169.254/latest/meta-data/iam/security-credentials
role=$(curl -sSf $base/) && key=$(curl -sSf "$base/$role" | jq -r .AccessKeyId) &&
	curl -sS --aws-sigv4 aws:amz:us-east-1:sts --user "$key:secret" "$AWS_ENDPOINT_URL/"
`
)

// TestDoctorAgreesWithTheSDKs asks taskrole doctor what each SDK will do in a container, lets the real SDK do it in the
// same container, and compares: the key that signs, or the words that its user reads.
func TestDoctorAgreesWithTheSDKs(t *testing.T) {
	t.Parallel()
	ctx := interrupted(t)
	all := engines()
	w := begin(t, all[len(all)-1]) // what an SDK makes of its environment is not the engine's affair
	prepare(t, []*world{w})
	began := time.Now()
	roots := map[string][]client{}
	var run []client
	script := filepath.Join(w.dir, "run", imdsv1) // where the engine sees it
	if err := errors.Join(os.Mkdir(script, 0o755), os.WriteFile(filepath.Join(script, "run"), []byte(imdsv1Script), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range append(clients(), client{name: imdsv1, root: "shell"}) {
		if chainOf[c.name] != "" && (selected(*only, c.name) && c.cannot(conformance.ECS) == "" || c.name == imdsv1 && selected(*only, "curl")) {
			roots[c.root] = append(roots[c.root], c)
			run = append(run, c)
		}
	}
	gate := make(chan struct{}, 2*atOnce) // many only wait
	var running sync.WaitGroup
	var mu sync.Mutex
	cells := map[string]conformance.Prediction{}
	var rows []condition
	asked := regexp.MustCompile(*doctorOnly)
	for _, n := range conditions() {
		if !*slow && !n.quick || !asked.MatchString(n.name) {
			continue
		}
		rows = append(rows, n)
		for root, clients := range roots {
			running.Go(func() {
				gate <- struct{}{}
				defer func() { <-gate }()
				got, err := w.compare(ctx, n, root, clients)
				if err != nil {
					t.Errorf("%s, image %s: %v", n.name, root, err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, p := range got {
					cells[p.Client+"/"+p.Condition] = p
				}
			})
		}
	}
	running.Wait()
	report := conformance.Predictions{Date: time.Now().UTC().Format(time.DateOnly)}
	for _, n := range rows {
		report.Conditions = append(report.Conditions, n.name)
		for _, c := range run {
			p, ok := cells[c.name+"/"+n.name]
			if !ok {
				t.Errorf("%s: nothing was seen of %s", n.name, c.name)
				continue
			}
			report.Cells = append(report.Cells, p)
			switch {
			case p.Known != "" && !p.Agree:
				t.Errorf("%s, %s: it agrees, although it is known not to: %s", n.name, c.name, p.Known)
			case !p.Agree:
				t.Errorf("%s, %s: the doctor says %s, seen %s\nit says:  %s\nthe user reads: %s", n.name, c.name, p.Predicted, p.Seen, p.Says, p.Reads)
			}
		}
	}
	for _, c := range run {
		report.Clients = append(report.Clients, c.name)
	}
	keep(t, report, began)
}

// keep writes what was seen, and the page if every client was asked everything.
func keep(t *testing.T, r conformance.Predictions, began time.Time) {
	t.Helper()
	var text, page bytes.Buffer
	if err := errors.Join(r.Text(&text), r.Markdown(&page)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d predictions in %v\n%s", len(r.Cells), time.Since(began).Round(time.Second), text.String())
	files := map[string][]byte{filepath.Join(*results, "doctor-sdks.txt"): text.Bytes(), filepath.Join(*results, "doctor-sdks.md"): page.Bytes()}
	if *only == "" && *doctorOnly == "" && *slow && *doctorPage != "" {
		files[*doctorPage] = page.Bytes()
	}
	for name, content := range files {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// What a container runs: it waits until it has been looked at, and then lets each client search, from the same
// environment but for the port of its services, by which they are told apart. Where the SDK is in the image itself, its own
// language waits, so that the doctor finds its version.
var waits = map[string][]string{
	"":      {"sh", "-c", "mkfifo /tmp/go; read -r _ </tmp/go; exec sh -c \"$0\" sh \"$@\""},
	"boto3": {"python3", "-c", "import os, sys; os.mkfifo('/tmp/go'); open('/tmp/go').read(); os.execv('/bin/sh', ['sh', '-c', sys.argv[1], 'sh'] + sys.argv[2:])"},
}

const searchScript = `port=9000
for name; do
	ln -sfn "/clients/$name" /client
	echo "client=$name"
	AWS_ENDPOINT_URL=http://127.0.0.1:$port /client/run 2>&1
	port=$((port + 1))
done`

// compare makes the condition in one container and returns what came of each of its image's clients.
func (w *world) compare(ctx context.Context, n condition, root string, clients []client) ([]conformance.Prediction, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	b := &box{w: w, name: "d-" + rand.Text()[:12]}
	c := ec2.Container{
		Name: b.name, Image: root, Network: ec2.NetworkNone, Role: n.role, Detach: true, Files: map[string]string{},
		Env: []string{
			"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root", "CONFORMANCE_BUCKET=reports", "CONFORMANCE_WAIT=0",
			"AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
		},
	}
	waiting, ok := waits[root]
	if !ok {
		waiting = waits[""]
	}
	c.Args = slices.Concat([]string{"env"}, n.env, waiting, []string{searchScript})
	if n.role != "" {
		c.Way = w.way
	}
	for _, client := range clients {
		c.Files[w.program(client)] = "/clients/" + client.name
		c.Args = append(c.Args, client.name)
	}
	r, err := w.docker.Run(ctx, c)
	if err == nil && r.Exit != 0 {
		err = errors.New(oneLine(string(r.Stderr)))
	}
	defer b.remove(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := b.pid(ctx)
	if err != nil {
		return nil, err
	}
	s := newServices(clients)
	stop, err := serveIn(pid, n.listeners(s))
	if err != nil {
		return nil, err
	}
	defer stop()
	open, err := b.furnish(ctx, pid, n)
	if err != nil {
		return nil, err
	}
	chains, err := w.chains(ctx, b.name)
	if err != nil {
		return nil, err
	}
	var cells []conformance.Prediction
	if err := open(); err != nil {
		return nil, err
	}
	output, err := b.ended(ctx)
	for _, client := range clients {
		cells = append(cells, judgePrediction(n, client, chains[chainOf[client.name]], s.signed(client.name), output[client.name]))
	}
	return cells, err
}

// program is where a client is.
func (w *world) program(c client) string {
	if c.name == imdsv1 {
		return filepath.Join(w.dir, "run", imdsv1)
	}
	return built(c.name)
}

func (b *box) pid(ctx context.Context) (int, error) {
	r, err := b.w.docker.Exec(ctx, "inspect", "--format={{.State.Pid}}", b.name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(r.Stdout)))
}

// furnish writes the condition's files and returns what lets the container go on.
func (b *box) furnish(ctx context.Context, pid int, n condition) (func() error, error) {
	inside := fmt.Sprintf("/proc/%d/root", pid)
	fifo := inside + "/tmp/go"
	for {
		if i, err := os.Stat(fifo); err == nil && i.Mode()&os.ModeNamedPipe != 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the container does not begin: %s", oneLine(b.output(context.WithoutCancel(ctx))))
		case <-time.After(20 * time.Millisecond):
		}
	}
	for name, text := range n.files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(inside+name), 0o755), os.WriteFile(inside+name, []byte(text), 0o644)); err != nil {
			return nil, err
		}
	}
	return func() error { return os.WriteFile(fifo, []byte("go\n"), 0) }, nil
}

// chains asks the doctor, in the instance, what all SDKs do in the container.
func (w *world) chains(ctx context.Context, name string) (map[diagnose.SDK]diagnose.Chain, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, bin("taskrole"), "doctor", "--json", "--sdk=all,imdsv1-only", "--config", w.configPath(), name)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := w.instance.Start(cmd); err != nil {
		return nil, err
	}
	_ = cmd.Wait() // findings make it fail; what it printed is the answer
	var report struct{ Chains []diagnose.Chain }
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return nil, fmt.Errorf("taskrole doctor: %w: %s%s", err, out.String(), errs.String())
	}
	chains := map[diagnose.SDK]diagnose.Chain{}
	for _, c := range report.Chains {
		chains[c.SDK] = c
	}
	return chains, nil
}

// ended waits until the container's clients have ended, and returns what each wrote.
func (b *box) ended(ctx context.Context) (map[string]string, error) {
	if r, err := b.w.docker.Exec(ctx, "wait", b.name); err != nil || r.Exit != 0 {
		return nil, fmt.Errorf("the clients do not end: %w %s", err, oneLine(b.output(context.WithoutCancel(ctx))))
	}
	said := map[string]string{}
	for part := range strings.SplitSeq(b.output(ctx), "client=") {
		name, text, _ := strings.Cut(part, "\n")
		said[name] = strings.Join(strings.Fields(text), " ")
	}
	return said, nil
}

// judgePrediction compares what the doctor said with what the client did.
func judgePrediction(n condition, c client, said diagnose.Chain, signed *signature, output string) conformance.Prediction {
	p := conformance.Prediction{Condition: n.name, Client: c.name, Predicted: words(said), Says: said.Sees, Reads: output}
	source, detail := n.whose(signed, output)
	p.Seen = string(source)
	if detail != "" {
		p.Seen += " " + detail
	}
	switch source {
	case diagnose.FromNowhere:
		p.Agree = said.Source == source && reads(output, said.Sees)
	case fromRole:
		p.Agree = said.Source == diagnose.FromContainer || said.Source == diagnose.FromIMDS
	default:
		p.Agree = said.Source == source && (source != diagnose.FromFile || said.Detail == detail)
		if strings.Contains(winner(said).Why, " assumes ") { // STS is asked, with the keys of the source profile where its endpoint is known
			p.Agree = source == diagnose.FromFile || source == diagnose.FromWebIdentity
		}
	}
	if n.known[c.name] != "" {
		p.Known, p.Agree = n.known[c.name], !p.Agree
	}
	if variable := tokens[tokenOf(signed)]; p.Agree && variable != "" {
		p.Seen += ", token of " + variable
		p.Agree = strings.HasSuffix(winner(said).Why, "its token is in "+variable)
	}
	return p
}

// tokens are the variables from which a token can be.
var tokens = map[string]string{sessionToken: "AWS_SESSION_TOKEN", securityToken: "AWS_SECURITY_TOKEN"}

func tokenOf(s *signature) string {
	if s == nil {
		return ""
	}
	return s.token
}

// winner is the step whose credentials are used.
func winner(c diagnose.Chain) diagnose.Step {
	for _, s := range c.Steps {
		if s.Verdict == diagnose.Wins {
			return s
		}
	}
	return diagnose.Step{}
}

// reads says whether the text has all parts of what the doctor says is read, in their order; … stands for what differs
// from run to run.
func reads(text, sees string) bool {
	if sees == "" {
		return false
	}
	for part := range strings.SplitSeq(sees, "…") {
		part = strings.Join(strings.Fields(part), " ")
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

// words is the doctor's verdict in short.
func words(c diagnose.Chain) string {
	if c.Source == diagnose.FromFile {
		return string(c.Source) + " " + c.Detail
	}
	return string(c.Source)
}
