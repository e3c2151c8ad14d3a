//go:build conformance

package conformance_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/lab/cloud"
	"taskrole/test/conformance"
)

// slack is how long the clients may take to start, until all have their first credentials.
const slack = 30 * time.Second

// shows are clients that show people what the container endpoint says, word for word. (The SDK for Go 1 does so only with
// CredentialsChainVerboseErrors.)
var shows = map[string]bool{"boto3": true, "boto3-debian": true, "awscli1": true, "awscli2": true, "go-v2": true, "java-v1": true}

// outages is what each client said in the outage at the ECS endpoint, for the report.
var outages struct {
	sync.Mutex
	said map[string]string
}

// saidInOutage is nil where TestOutageOfSTS has not run.
func saidInOutage() map[string]string {
	outages.Lock()
	defer outages.Unlock()
	return maps.Clone(outages.said)
}

// TestOutageOfSTS lets STS fail while clients have credentials. They work until those end, and then fail: with our
// sentence where the client shows it, and never with another identity.
func TestOutageOfSTS(t *testing.T) {
	t.Parallel()
	ctx := interrupted(t)
	all := engines()
	w := begin(t, all[len(all)-1])
	prepare(t, []*world{w})
	w.cloud.LimitSessions(*life)
	var started, ended sync.WaitGroup
	defer ended.Wait()
	outages.said = map[string]string{}
	out := make(chan struct{}) // closed when STS has failed
	gate := make(chan struct{}, atOnce)
	for _, c := range clients() {
		if !selected(*only, c.name) || c.cannot(conformance.ECS) != "" {
			continue
		}
		for _, path := range []conformance.Path{conformance.ECS, conformance.FullURI} {
			started.Add(1)
			ended.Go(func() {
				gate <- struct{}{}
				begun := sync.OnceFunc(func() { <-gate; started.Done() })
				defer begun()
				said, err := w.outlive(ctx, c, path, func() { begun(); <-out })
				t.Logf("%s, %s: %s", c.name, path, said)
				if err != nil {
					t.Errorf("%s, %s: %v", c.name, path, err)
					return
				}
				if path == conformance.ECS {
					outages.Lock()
					outages.said[c.name] = said
					outages.Unlock()
				}
				if shows[c.name] && !strings.Contains(said, "STS does not answer") {
					t.Errorf("%s, %s does not show why", c.name, path)
				}
			})
		}
	}
	started.Wait()
	if err := w.cloud.SetFault(cloud.Fault{Service: "sts", Action: "AssumeRole", Kind: cloud.Outage}); err != nil {
		t.Error(err)
	}
	close(out)
}

// outlive runs a client for longer than its credentials live, and returns what it says then. begun waits for the outage.
func (w *world) outlive(ctx context.Context, c client, path conformance.Path, begun func()) (string, error) {
	wait := *life + slack // what was renewed just before the outage has ended then too
	b, err := w.start(ctx, c, role(path), environment(path), wait)
	if err != nil {
		return "", err
	}
	defer b.remove(ctx)
	first, err := b.line(ctx, 1, time.Minute)
	if err != nil {
		return "", err
	}
	if ok, why := first.found(); !ok {
		return "", fmt.Errorf("before the outage: %s", why)
	}
	begun()
	second, err := b.later(ctx, wait)
	if err != nil {
		return err.Error(), nil // it ended, and the error has its last words
	}
	if ok, why := second.found(); !ok {
		return why, nil
	}
	return "", fmt.Errorf("it still listed the bucket, as %s", second.arn)
}
