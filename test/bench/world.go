package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/address"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/netns"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
	"taskrole/lab/engine/ocirun"
)

// The roles of the agent's configuration. In a shared one all containers have one session, and so one key.
const (
	role      = "bench"
	roleCold  = "cold"
	roleWarm  = "warm"
	roleStale = "stale"
	config    = `# The agent's configuration while it is measured.
account: "ACCOUNT"
region: REGION
socket: SOCKET
runtime: RUNTIME
cdi: {dir: DIR}
engines: {docker: none}
sts: {endpoint: "SERVICES", calls_per_second: 1000}
roles:
  bench: {arn: READER, allow: [{any: true}]}
  cold: {arn: READER, session: cold, allow: [{any: true}]}
  warm: {arn: READER, session: warm, allow: [{any: true}]}
  stale: {arn: READER, session: stale, allow: [{any: true}]}
`
)

// world is the instance with everything on it.
type world struct {
	cloud    *cloud.Cloud
	instance *ec2.Instance
	bin, dir string
	socket   string
	config   string
	cgroup   string // of all containers, below the root; empty without cgroup2
	agent    *exec.Cmd
	boxes    []*box
}

func launch(ctx context.Context, bin string) (_ *world, err error) {
	w := &world{}
	//nolint:contextcheck // what is taken down does not end with ctx
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp("", "tr-bench-"); err != nil {
		return nil, err
	}
	w.socket, w.config = filepath.Join(w.dir, "agent.sock"), filepath.Join(w.dir, "config.yaml")
	//nolint:contextcheck // it works in memory only
	if w.cloud, err = cloud.New(cloud.Options{HopLimit: 1, TokensRequired: true}); err != nil {
		return nil, err
	}
	if w.instance, err = ec2.Launch(ctx, ec2.Options{Cloud: w.cloud, Dir: filepath.Join(w.dir, "i")}); err != nil {
		return nil, err
	}
	text := strings.NewReplacer(
		"ACCOUNT", cloud.AccountID, "REGION", w.cloud.Region(), "SOCKET", w.socket, "RUNTIME", filepath.Join(w.bin, "taskrole-runtime"),
		"DIR", w.dir, "SERVICES", w.instance.ServicesURL(), "READER", cloud.RoleARN(cloud.TaskReader),
	).Replace(config)
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	const prefix = "taskrole-bench-"
	ocirun.SweepCgroups(prefix)
	if root := ocirun.CgroupRoot(); root != "" {
		w.cgroup = fmt.Sprintf("%s%d-0", prefix, os.Getpid())
		if err := os.Mkdir(filepath.Join(root, w.cgroup), 0o755); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// close takes everything down.
func (w *world) close() error {
	errs := []error{w.empty()}
	w.stopAgent()
	if w.cgroup != "" {
		errs = append(errs, ocirun.RemoveCgroup("/"+w.cgroup))
	}
	if w.instance != nil {
		errs = append(errs, w.instance.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// startAgent starts a fresh agent and waits until it is ready.
func (w *world) startAgent(ctx context.Context) error {
	w.stopAgent()
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the agent has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(w.bin, "taskrole"), "agent", "--config", w.config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := w.instance.Start(cmd); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	w.agent = cmd
	const tries = 500
	for range tries {
		if _, err = control.List(ctx, w.socket); err == nil {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the agent does not get ready: %w", err)
}

func (w *world) stopAgent() {
	if w.agent != nil {
		_ = w.agent.Process.Signal(syscall.SIGTERM)
		_ = w.agent.Wait() // it leaves when told; the instance kills it with everything else if we do not get here
		w.agent = nil
	}
}

// box is a container: a process with a network namespace and a cgroup of its own.
type box struct {
	id      container.ID
	cmd     *exec.Cmd
	pidfd   *os.File
	ns      *netns.NS
	stdin   io.WriteCloser
	answers *json.Decoder
}

// add starts a container, which nothing is attached to yet.
func (w *world) add(ctx context.Context) (_ *box, err error) {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: crypto/rand, Go ≥ 1.24
	b := &box{id: container.ID(hex.EncodeToString(raw)), cmd: exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", partContainer)}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	b.cmd.Env, b.cmd.Stderr = []string{"PATH=/nonexistent"}, os.Stderr
	if w.cgroup != "" {
		dir := filepath.Join(ocirun.CgroupRoot(), w.cgroup, string(b.id))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // only for the start
		b.cmd.SysProcAttr.UseCgroupFD, b.cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a container: %w", err)
	}
	b.answers = json.NewDecoder(out)
	w.boxes = append(w.boxes, b)
	// Not the one that package os waits with: the agent makes the one it is handed non-blocking, for both.
	pidfd, err := unix.PidfdOpen(b.cmd.Process.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open a container's process: %w", err)
	}
	b.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	if b.ns, err = netns.Open(fmt.Sprintf("/proc/%d/ns/net", b.cmd.Process.Pid)); err != nil {
		return nil, err
	}
	return b, nil
}

// empty ends all containers.
func (w *world) empty() error {
	var errs []error
	for _, b := range w.boxes {
		errs = append(errs, b.stdin.Close())
	}
	for _, b := range w.boxes {
		errs = append(errs, b.cmd.Wait())
		if b.pidfd != nil {
			errs = append(errs, b.pidfd.Close())
		}
		if b.ns != nil {
			errs = append(errs, b.ns.Close())
		}
	}
	w.boxes = nil
	return errors.Join(errs...)
}

// hook attaches b with the real hook, as a runtime would call it.
func (w *world) hook(ctx context.Context, b *box, role string) error {
	state, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "id": b.id, "status": "creating", "pid": b.cmd.Process.Pid, "bundle": w.dir,
	})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "taskrole-runtime"), "hook", "--role", role, "--socket", w.socket)
	cmd.Stdin = bytes.NewReader(state)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("hook: %w: %s", err, out)
	}
	return nil
}

// attach asks the agent what the hook asks, without the process around it: for many at once.
func (w *world) attach(ctx context.Context, b *box, role string) error {
	_, err := control.Attach(ctx, w.socket, control.AttachRequest{Role: role, ID: b.id, Way: container.WayCDI}, b.pidfd, b.ns.File())
	return err
}

// do gives b an order and waits for the answer.
func (b *box) do(o order) (answer, error) {
	if err := json.NewEncoder(b.stdin).Encode(o); err != nil {
		return answer{}, err
	}
	var a answer
	if err := b.answers.Decode(&a); err != nil {
		return answer{}, fmt.Errorf("container: %w", err)
	}
	if a.Error != "" {
		return answer{}, fmt.Errorf("container: %s", a.Error)
	}
	return a, nil
}

// roomy gives b enough ports for a load of short connections.
func (b *box) roomy() error {
	_, err := netns.Do(b.ns, func() (struct{}, error) {
		return struct{}{}, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2000 60999"), 0)
	})
	return err
}

// floor starts the bare handler in b: on the address of the agent's, with a listener made as the agent's.
func (w *world) floor(ctx context.Context, b *box, body []byte) (*exec.Cmd, error) {
	if _, err := b.ns.AddAddresses([]netip.Addr{address.ECS.Addr()}); err != nil {
		return nil, err
	}
	l, err := netns.Do(b.ns, func() (*net.TCPListener, error) { return net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(address.ECS)) })
	if err != nil {
		return nil, err
	}
	f, err := l.File()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", partFloor)
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = bytes.NewReader(slices.Clone(body)), os.Stderr, []*os.File{f}
	err = w.instance.Start(cmd) // a server of the host, as the agent; and ended with it
	return cmd, errors.Join(err, f.Close(), l.Close())
}

// pause waits without keeping ctx from ending.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
