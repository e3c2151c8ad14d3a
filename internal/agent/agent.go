// Package agent is the long-running mode: it puts configuration, identity, broker, kernel and engine together and
// answers the hook.
//
// It composes and decides nothing clever itself: may a container have a role is policy's question, how its credentials
// live is the broker's, how they reach it is attach's. The order of steps of one attach is in admit.go, the order of
// clean-up in Run.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/awssts"
	"taskrole/internal/broker"
	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/durable"
	"taskrole/internal/endpoint"
	"taskrole/internal/engine/docker"
	"taskrole/internal/guard"
	"taskrole/internal/netns"
	"taskrole/internal/secret"
)

// Options say how to run an agent.
type Options struct {
	ConfigPath string
	Logger     *slog.Logger     // must not be nil
	Reload     <-chan os.Signal // each value makes the agent read its configuration again; may be nil
}

// Agent is a running agent. It implements control.Handler.
type Agent struct {
	log      *slog.Logger
	config   atomic.Pointer[config.Config] // replaced whole by a reload
	host     *netns.NS                     // the agent's own network namespace: the host's
	hostname string
	tree     *attest.Tree
	engine   *docker.Engine // also one of engines; nil where the configuration names none
	engines  engines
	broker   *broker.Broker
	server   *endpoint.Server
	attacher *attach.Attacher
	tokens   *endpoint.TokenKey
	telling  telling
	guard    *guard.Guard
	register *register
	late     *late    // nil where nothing is followed
	midwife  *midwife // nil where nothing is followed, or cgroups tell nothing
	served   served
	refusals refusals
	runtime  string        // path of taskrole-runtime
	done     chan struct{} // something was done, after which tidy tidies up
}

// Run serves until ctx is cancelled, and then takes everything away but the addresses in containers that still run
// (they make those containers' requests fail instead of reaching the host's IMDS). A configuration that cannot be used
// is an error of type config.Problems.
func Run(ctx context.Context, o Options) error {
	cfg, err := config.Load(o.ConfigPath)
	if err != nil {
		return err
	}
	a := &Agent{log: o.Logger, done: make(chan struct{}, 1)}
	a.config.Store(cfg)
	a.telling.configure(cfg)
	if err := a.open(ctx, cfg); err != nil {
		return err
	}
	defer a.close()
	// The socket comes before the specification: it proves that no other agent is here.
	l, err := control.Listen(cfg.Socket) //nolint:contextcheck // it has a deadline of its own
	if err != nil {
		return err
	}
	if err := a.openGuard(ctx, cfg, a.host); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := a.writeSpec(cfg); err != nil {
		return errors.Join(err, l.Close())
	}
	defer a.report(ctx, cfg)()
	a.log.InfoContext(ctx, "agent ready", slog.String("socket", cfg.Socket), slog.Int("roles", len(cfg.Roles)), slog.String("cdi_spec", specPath(cfg)))

	ctx, cancel := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { a.reloadOn(ctx, o.Reload) })
	found := a.register.alive(a.log)
	side.Go(func() { a.adopt(ctx, found) })
	side.Go(func() { a.watchHost(ctx) })
	if a.engine != nil {
		side.Go(func() { a.serveDaemon(ctx) })
	}
	side.Go(func() { a.guard.Serve(ctx) })
	side.Go(func() { a.watchdog(ctx) })
	if a.late != nil {
		side.Go(func() { a.late.run(ctx, a.midwife) })
	}
	side.Go(func() { tidy(ctx, a.done, giveBack) })
	err = control.Serve(ctx, l, a, o.Logger, control.WithOperator(operator{a}))
	cancel()
	side.Wait()
	return err
}

// open makes the parts, in the order they need each other.
func (a *Agent) open(ctx context.Context, cfg *config.Config) (err error) {
	if a.runtime, err = runtimePath(cfg.Runtime); err != nil {
		return err
	}
	if a.hostname, err = os.Hostname(); err != nil {
		return fmt.Errorf("read the host's name: %w", err)
	}
	if a.host, err = netns.Current(); err != nil {
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	if a.tree, err = attest.OpenTree(); err != nil {
		return err
	}
	if a.engines, a.engine, err = openEngines(cfg); err != nil {
		return err
	}
	// First of what is in its directory, which it makes and looks at.
	if a.register, err = openRegister(cfg, a.tree); err != nil {
		return err
	}
	if a.tokens, err = tokenKey(cfg); err != nil {
		return err
	}
	sts, err := awssts.New(ctx, awssts.Options{Region: cfg.Region, Endpoint: cfg.STS.Endpoint})
	if err != nil {
		return err
	}
	a.broker = broker.New(broker.Options{Source: sts, Logger: a.log, CallsPerSecond: cfg.STS.CallsPerSecond})
	a.server = endpoint.NewServer(a.log)
	a.attacher, err = attach.New(attach.Options{
		Logger: a.log, Tree: a.tree, Stranger: func(c net.Conn) { a.server.Handle(c, nil) },
	})
	a.late = a.newLate(cfg)
	return err
}

// close undoes open. Containers first: nobody may ask a broker that is closed.
func (a *Agent) close() {
	if a.midwife != nil {
		a.midwife.close() // it is closed already, unless the agent never came to run
	}
	a.attacher.Close()
	_ = a.server.Close()
	a.broker.Close()
	_ = a.engines.Close()
	_ = a.tree.Close()
	_ = a.host.Close()
}

// tokenKey returns the key of the IMDS session tokens. It outlives the agent, beside the control socket on a file system
// in memory, because some SDKs keep a token for six hours and do not ask for another when it is refused.
func tokenKey(cfg *config.Config) (*endpoint.TokenKey, error) {
	const most = 1 << 10
	path := filepath.Join(filepath.Dir(cfg.Socket), "imds-token.key")
	b, err := durable.ReadFile(path, most)
	if err == nil {
		if k, err := endpoint.FromSecret(secret.New(string(b))); err == nil {
			return k, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the key of IMDS tokens: %w", err)
	}
	k := endpoint.NewTokenKey() // none yet, or one that cannot be used
	if err := durable.WriteFile(path, []byte(k.Secret().Reveal()), 0o600); err != nil {
		return nil, fmt.Errorf("keep the key of IMDS tokens: %w", err)
	}
	return k, nil
}
