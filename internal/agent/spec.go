package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"taskrole/internal/address"
	"taskrole/internal/cdispec"
	"taskrole/internal/config"
	"taskrole/internal/durable"
	"taskrole/internal/fault"
	"taskrole/internal/systemd"
)

func specPath(cfg *config.Config) string { return filepath.Join(cfg.CDI.Dir, cdispec.FileName) }

// hookTimeout is after how many seconds the OCI runtime gives up on the hook: later than the hook itself does (15 s),
// because the hook says why and the runtime does not.
const hookTimeout = 30

// writeSpec writes the CDI document, which engines and our runtime shim read. It stays when the agent stops: the hook
// in it then says that the agent is not there, where the engine alone would say "unresolvable device".
func (a *Agent) writeSpec(cfg *config.Config) error {
	roles := make([]cdispec.Role, 0, len(cfg.Roles))
	for _, r := range cfg.Roles {
		device := cdispec.Role{Name: r.Name, FullURI: fullURI(r.Inject), TaskMetadata: r.TaskMetadata, Region: r.Region, Proxy: r.Egress != nil, ProxyPlainHTTP: plainHTTP(r.Egress)}
		if device.FullURI != "" {
			device.Token = a.tokens.Authorization(r.Name).Reveal()
		}
		roles = append(roles, device)
	}
	b, err := cdispec.Build(roles, cdispec.HookCommand{Path: a.runtime, Socket: cfg.Socket, Timeout: hookTimeout})
	if err != nil {
		return fmt.Errorf("build the CDI document: %w", err)
	}
	if err := os.MkdirAll(cfg.CDI.Dir, 0o755); err != nil { //nolint:gosec // engines of other users read it; it holds no secret
		return fmt.Errorf("make the CDI directory: %w", err)
	}
	if err := durable.WriteFile(specPath(cfg), b, specMode(roles)); err != nil {
		return fmt.Errorf("write the CDI document: %w", err)
	}
	return nil
}

// specMode lets only root read a document with tokens in it: engines run as root, and for others there is no need.
func specMode(roles []cdispec.Role) fs.FileMode {
	for _, r := range roles {
		if r.Token != "" {
			return 0o600
		}
	}
	return 0o644
}

// fullURI is what AWS_CONTAINER_CREDENTIALS_FULL_URI is set to, or "" for the relative one.
func fullURI(i config.Injection) string {
	switch i {
	case config.InjectFull:
		return "http://" + address.FullURI.String() + address.PodIdentityPath
	case config.InjectPodIdentity:
		return "http://" + address.PodIdentity.Addr().String() + address.PodIdentityPath // as EKS writes it, without the port
	default:
		return ""
	}
}

// plainHTTP says whether a role's proxy leads to an endpoint without TLS, such as a simulator's.
func plainHTTP(e *config.Egress) bool {
	if e == nil {
		return false
	}
	for _, u := range e.Endpoints {
		if strings.HasPrefix(strings.ToLower(u), "http://") {
			return true
		}
	}
	return false
}

// runtimePath finds taskrole-runtime: as configured, beside the agent's own program, or on PATH. Engines call it by the
// absolute path.
func runtimePath(configured string) (string, error) {
	const name = "taskrole-runtime"
	var beside string
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), name)
	}
	for _, p := range []string{configured, beside} {
		if p == "" {
			continue
		}
		if _, err := os.Stat(p); err == nil {
			return filepath.Abs(p)
		} else if p == configured {
			return "", fault.Wrap(err, fault.RuntimeUnavailable, fmt.Sprintf("no program at %s, which `runtime` in the configuration names", p), "install taskrole-runtime there")
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fault.Wrap(err, fault.RuntimeUnavailable, name+" is neither beside the agent nor on PATH", "install it beside taskrole, or set `runtime` in the configuration")
	}
	return filepath.Abs(p)
}

// reloadOn reads the configuration again for each signal. Containers that are attached keep what they have.
func (a *Agent) reloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			a.told(ctx, systemd.Reloading())
			if err := a.reload(ctx); err != nil {
				a.log.ErrorContext(ctx, "the new configuration cannot be used; the old one stays", slog.String("error", err.Error()))
			}
			a.told(ctx, systemd.Ready(status(a.config.Load())))
		}
	}
}

// errRestart says what a reload cannot change.
var errRestart = errors.New("socket, runtime, engines, late and sts change only with a restart of the agent")

func (a *Agent) reload(ctx context.Context) error {
	old := a.config.Load()
	cfg, err := config.Load(old.Path)
	if err != nil {
		return err
	}
	if cfg.Socket != old.Socket || cfg.Runtime != old.Runtime || cfg.Docker != old.Docker || cfg.Podman != old.Podman || cfg.STS != old.STS || cfg.CDI != old.CDI || cfg.Late != old.Late {
		return errRestart
	}
	if err := a.guard.Set(ctx, guarded(cfg.Guard)); err != nil {
		return err
	}
	a.config.Store(cfg) // before the document: whoever reads of a new role there must find it here
	if err := a.writeSpec(cfg); err != nil {
		a.config.Store(old)
		return errors.Join(err, a.guard.Set(ctx, guarded(old.Guard)))
	}
	a.telling.configure(cfg)
	if a.late != nil {
		a.late.reconsider() // who was refused may be allowed now, and the other way round nothing changes
	}
	a.log.InfoContext(ctx, "configuration reloaded", slog.Int("roles", len(cfg.Roles)))
	return nil
}
