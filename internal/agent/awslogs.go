package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/attach"
	"taskrole/internal/attest"
	"taskrole/internal/config"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
	"taskrole/internal/secret"
)

// Docker's log driver awslogs fetches credentials by itself, from the daemon's own process on the host's network: from
// 169.254.170.2 and the path in the container's option awslogs-credentials-endpoint. So the daemon is attached as a
// container on the host's network is, by its cgroup, and may have every role that says awslogs.

// daemonPause is the wait between two looks at whether there is a daemon to serve, and any role for it.
const daemonPause = 2 * time.Second

// daemonPatience is for the daemon to answer a ping, and for STS.
const daemonPatience = 10 * time.Second

// useAWSLogs is what sessions for the log driver are named after.
const useAWSLogs = "awslogs"

// serveDaemon keeps Docker's daemon attached as long as a role says awslogs, over its restarts. What goes wrong is logged
// once, until it is another thing.
func (a *Agent) serveDaemon(ctx context.Context) {
	tick := time.NewTicker(daemonPause)
	defer tick.Stop()
	var id container.ID
	said := ""
	for {
		wanted := logging(a.config.Load())
		switch {
		case wanted && (id == "" || !a.attacher.Has(id)):
			var err error
			if id, err = a.attachDaemon(ctx); err != nil && err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				a.log.WarnContext(ctx, "Docker's daemon gets no credentials for its log driver awslogs", slog.String("code", string(fault.CodeOf(err))), slog.String("error", said))
			}
		case !wanted && id != "":
			a.attacher.Detach(id)
			id, said = "", ""
		}
		select {
		case <-ctx.Done():
			if id != "" {
				a.attacher.Detach(id) // it is not refused without us: it has the host's role to go back to
			}
			return
		case <-tick.C:
		}
	}
}

func logging(cfg *config.Config) bool {
	for _, r := range cfg.Roles {
		if r.AWSLogs {
			return true
		}
	}
	return false
}

// attachDaemon attaches the process that answers at Docker's socket.
func (a *Agent) attachDaemon(ctx context.Context) (container.ID, error) {
	p, err := a.daemon(ctx)
	if err != nil {
		return "", err
	}
	t, err := a.daemonTarget(p)
	if err != nil {
		return "", errors.Join(err, p.Close())
	}
	h := http.HandlerFunc(a.answerDaemon)
	s := attach.Service{
		Container: container.Container{ID: t.ID, Name: string(t.ID)}, Session: useAWSLogs, Destinations: []netip.AddrPort{address.ECS},
		Handle: func(c net.Conn) { a.server.Handle(c, h) },
	}
	_, already, err := a.attacher.Attach(ctx, t, func(context.Context) (attach.Service, error) { return s, nil })
	if err == nil && !already {
		a.log.InfoContext(ctx, "serving Docker's log driver awslogs", slog.String("cgroup", string(t.ID)))
	}
	return t.ID, err
}

// daemon opens Docker's daemon.
func (a *Agent) daemon(ctx context.Context) (*attest.Process, error) {
	host := a.config.Load().Docker
	unreachable := func(err error) error {
		return fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the daemon at %s cannot be found: %v", host, err), "check that it runs, and that engines.docker names its Unix socket")
	}
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(host, "unix://"))
	if err != nil {
		return nil, unreachable(err)
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	// What has answered has accepted, and so holds the other end.
	if _, err := io.WriteString(c, "GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"); err != nil {
		return nil, unreachable(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return nil, unreachable(err)
	}
	p, err := attest.UnixPeer(c.(*net.UnixConn))
	if err != nil {
		return nil, unreachable(err)
	}
	return p, nil
}

// daemonTarget is the daemon as attach wants it: on the host's network, in a cgroup of its own, after which it is named.
func (a *Agent) daemonTarget(p *attest.Process) (attach.Target, error) {
	f, err := p.NetNS()
	if err != nil {
		return attach.Target{}, err
	}
	ns, err := netns.FromFile(f)
	if err != nil {
		return attach.Target{}, err
	}
	cg, known, err := a.tree.Of(p)
	id := container.ID(strings.TrimSuffix(path.Base(cg.Path), ".scope"))
	own, ownErr := a.ownCgroup()
	same, sameErr := ns.Same(a.host)
	switch err := errors.Join(err, ownErr, sameErr); {
	case err != nil:
		return attach.Target{}, errors.Join(err, ns.Close())
	case !same:
		err = fault.New(fault.HostNetwork, "the daemon is not on the host's network, so its log driver does not ask there", "leave awslogs out of the roles")
		return attach.Target{}, errors.Join(err, ns.Close())
	case !known || !id.Valid() || own.ID == cg.ID:
		err = fault.New(fault.HostNetwork, "no cgroup of its own tells the daemon from the host's other processes", "start it as a service of systemd, on a host with cgroup v2")
		return attach.Target{}, errors.Join(err, ns.Close())
	}
	return attach.Target{
		ID: id, Role: useAWSLogs, Way: container.WayLogDriver, Process: p, NS: ns, Cgroup: cg, Host: true,
		Confined: true, // it could do worse than listen in
	}, nil
}

// ownCgroup is the agent's.
func (a *Agent) ownCgroup() (attest.Cgroup, error) {
	self, err := attest.OpenProcess(os.Getpid())
	if err != nil {
		return attest.Cgroup{}, err
	}
	defer self.Close() //nolint:errcheck // only read from
	c, _, err := a.tree.Of(self)
	return c, err
}

// answerDaemon gives the credentials of the role in the path. Only a role that says awslogs is given.
func (a *Agent) answerDaemon(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), daemonPatience)
	defer cancel()
	name := path.Base(r.URL.Path)
	c, err := a.daemonCredentials(ctx, name)
	endpoint.New(endpoint.Options{
		Role: name, Logger: a.log, IMDS: endpoint.Off, Credentials: func() (secret.Credentials, error) { return c, err },
	}).ServeHTTP(w, r)
}

func (a *Agent) daemonCredentials(ctx context.Context, name string) (secret.Credentials, error) {
	role, err := a.config.Load().Role(name)
	if err != nil {
		return secret.Credentials{}, err
	}
	if !role.AWSLogs {
		return secret.Credentials{}, fault.New(fault.RoleNotAllowed, fmt.Sprintf("the role %s is not for the log driver awslogs", role.Name),
			"set awslogs: true in roles."+role.Name)
	}
	reply, err := operator{a}.credentials(ctx, control.CredentialsRequest{Role: role.Name, Use: useAWSLogs})
	return reply.Credentials, err
}
