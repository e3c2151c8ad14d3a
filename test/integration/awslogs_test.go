//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/netns"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// logs stands for CloudWatch Logs: it keeps what is put, and with which key.
type logs struct {
	mu    sync.Mutex
	asked []string // operations
	got   []string // messages
	keys  map[string]bool
}

func (l *logs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(after, "/")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, r.Header.Get("X-Amz-Target"))
	if r.Header.Get("X-Amz-Security-Token") != "" {
		l.keys[key] = true
	}
	var put struct {
		LogEvents []struct{ Message string } `json:"logEvents"`
	}
	_ = json.Unmarshal(b, &put)
	for _, e := range put.LogEvents {
		l.got = append(l.got, e.Message)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_, _ = io.WriteString(w, `{"nextSequenceToken":"1"}`)
}

func (l *logs) has(message, key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(strings.Join(l.got, "\n"), message) || !l.keys[key] {
		return fmt.Errorf("messages %q with keys %v in %q, want %q with %s", l.got, l.keys, l.asked, message, key)
	}
	return nil
}

// serveLogs serves CloudWatch Logs on the instance.
func (w *world) serveLogs(t *testing.T) (*logs, string) {
	t.Helper()
	l, err := netns.Do(w.instance.NS(), func() (net.Listener, error) {
		return new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := &logs{keys: map[string]bool{}}
	srv := &http.Server{Handler: kept}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return kept, "http://" + l.Addr().String()
}

// logTo is what leads the log driver of a container to the service, with a role's credentials.
func logTo(endpoint, role string) []string {
	return []string{
		"--log-driver=awslogs", "--log-opt=awslogs-region=us-east-1", "--log-opt=awslogs-endpoint=" + endpoint, "--log-opt=awslogs-group=g",
		"--log-opt=awslogs-credentials-endpoint=/v2/credentials/" + role,
	}
}

// servesDaemon waits until the log driver is served, by configuration text.
func (w *world) servesDaemon(t *testing.T, text string) {
	t.Helper()
	w.rewrite(t, text)
	w.reload(t)
	w.daemonAttached(t)
}

func (w *world) daemonAttached(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		for _, a := range w.attached(t) {
			if a.Way == container.WayLogDriver {
				return nil
			}
		}
		return errors.New("the daemon is not attached")
	})
}

// withLogDriver is the configuration with the role writer for the log driver too.
func (w *world) withLogDriver() string {
	return strings.Replace(w.config(), "  writer:\n", "  writer:\n    awslogs: true\n", 1)
}

func TestLogDriverOfDockerHasTheRoleOfItsContainer(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		kept, endpoint := w.serveLogs(t)
		w.servesDaemon(t, w.withLogDriver())
		run := func(role string) ec2.Result {
			return w.start(t, ec2.Container{
				Network: ec2.NetworkNone, Args: []string{"env", "MARK"}, Env: []string{"MARK=" + role + "-was-here"}, Options: logTo(endpoint, role),
			})
		}
		if r := run("writer"); r.Exit != 0 {
			t.Fatalf("exit %d, %s", r.Exit, r.Stderr)
		}
		c, err := control.Credentials(t.Context(), w.socket(), control.CredentialsRequest{Role: "writer", Use: "awslogs"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return kept.has("MARK=writer-was-here", c.Credentials.AccessKeyID) })
		if !strings.Contains(c.Credentials.RoleARN, cloud.TaskWriter) {
			t.Errorf("these credentials are of %s", c.Credentials.RoleARN)
		}
		// A role that does not say awslogs is not given, and no other process of the host is answered.
		r := run("reader")
		if err := kept.has("MARK=reader-was-here", c.Credentials.AccessKeyID); err == nil || r.Exit == 0 {
			t.Errorf("a role that does not say awslogs: exit %d, %s", r.Exit, r.Stderr)
		}
		wantNotTheirs(t, w.onInstance(t, bin("taskrole-lab-probe"), "get", "http://169.254.170.2/v2/credentials/writer"))
		w.rewrite(t, w.config())
		w.reload(t)
		eventually(t, func() error {
			if l := w.attached(t); len(l) > 0 {
				return fmt.Errorf("still attached: %+v", l)
			}
			if lo := w.onInstance(t, "ip", "-4", "addr", "show", "dev", "lo"); strings.Contains(lo, "169.254.170.2") {
				return fmt.Errorf("without the key, lo has %s", lo)
			}
			return nil
		})
	})
}

// The engine is restarted as an upgrade does: another process then, in the same cgroup, and other rules of its own in the
// packet filter.
func TestGuardAndLogDriverSurviveARestartOfDocker(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	kept, endpoint := w.serveLogs(t)
	w.servesDaemon(t, w.withLogDriver()+"guard: enforce\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.docker.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if w.reaches(t, ec2.NetworkBridge) {
		t.Error("after a restart of the engine a container on a bridge reaches the host's metadata service")
	}
	eventually(t, func() error {
		r := w.start(t, ec2.Container{
			Network: ec2.NetworkNone, Args: []string{"env", "MARK"}, Env: []string{"MARK=after-the-restart"}, Options: logTo(endpoint, "writer"),
		})
		if r.Exit != 0 {
			return fmt.Errorf("exit %d, %s", r.Exit, r.Stderr)
		}
		return nil
	})
	c, err := control.Credentials(t.Context(), w.socket(), control.CredentialsRequest{Role: "writer", Use: "awslogs"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return kept.has("MARK=after-the-restart", c.Credentials.AccessKeyID) })
}
