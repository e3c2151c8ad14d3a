package engineroot

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is an engine that a supervisor can run.
type Kind string

// The kinds. Podman and containerd need a Plan with a Root: they would find the machine's own state otherwise.
const (
	Docker     Kind = "docker"
	Podman     Kind = "podman"     // its service, for those who ask; containers are run by the podman command itself
	Containerd Kind = "containerd" // driven by ctr
)

// Program is the name of the daemon's program.
func (k Kind) Program() string {
	if k == Docker {
		return "dockerd"
	}
	return string(k)
}

// daemon is what is to be started, and the client that goes with it.
type daemon struct {
	path, cli string
	args      []string
}

// prepare writes the engine's configuration. It runs inside the engine's root.
func (p Plan) prepare(ctx context.Context) (daemon, error) {
	path, err := Find("/", p.Kind.Program())
	if err != nil {
		return daemon{}, err
	}
	switch p.Kind {
	case Podman:
		return daemon{path, path, []string{"system", "service", "--time=0", "unix://" + p.Socket()}}, p.configurePodman()
	case Containerd:
		ctr, err := Find("/", "ctr")
		if err != nil {
			return daemon{}, err
		}
		return daemon{path, ctr, []string{"--config", p.config()}}, p.configureContainerd()
	default:
		cli, err := cliBeside(path)
		if err != nil {
			return daemon{}, err
		}
		major, err := majorVersion(ctx, path)
		if err != nil {
			return daemon{}, err
		}
		config, err := p.daemonConfig(major)
		if err != nil {
			return daemon{}, err
		}
		return daemon{path, cli, []string{"--config-file", p.config()}}, os.WriteFile(p.config(), config, 0o600)
	}
}

// bridge returns the network of the default bridge.
func (p Plan) bridge() (netip.Prefix, error) {
	bridge, err := netip.ParsePrefix(p.Bridge)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("the bridge's address: %w", err)
	}
	return bridge.Masked(), nil
}

// configurePodman writes what all podman commands in this root read.
func (p Plan) configurePodman() error {
	bridge, err := p.bridge()
	if err != nil {
		return err
	}
	// Podman keeps its locks in /dev/shm, which is the machine's.
	if err := mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	runtimes := ""
	if p.Runtime != "" {
		runtimes = fmt.Sprintf("taskrole = [%q]\n", p.Runtime)
	}
	env := append([]string{"PATH=" + Path}, p.Env...)
	files := map[string]string{
		"containers.conf": fmt.Sprintf(`[containers]
# More than the lab may have would be refused: "setrlimit RLIMIT_NOFILE: Operation not permitted".
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
dns_servers = [%q]
# On a machine that boots with v1, the v2 hierarchy has no such controller.
pids_limit = 0
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
cdi_spec_dirs = [%q]
conmon_env_vars = [%s]
runtime = "crun"
[engine.runtimes]
%s[network]
default_subnet = %q
default_subnet_pools = [{base = %q, size = 24}]
`, p.DNS, p.CDIDir, quoted(env), runtimes, bridge, p.Pool),
		"storage.conf": fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", p.data(), p.exec()),
		"policy.json":  `{"default": [{"type": "insecureAcceptAnything"}]}`,
	}
	return writeAll("/etc/containers", files)
}

// configureContainerd writes containerd's own file, a bridge for ctr run --cni, and makes the places that ctr knows.
func (p Plan) configureContainerd() error {
	bridge, err := p.bridge()
	if err != nil {
		return err
	}
	network, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []map[string]any{{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
			"ipam": map[string]any{
				"type": "host-local", "ranges": [][]map[string]any{{{"subnet": bridge.String()}}},
				"routes": []map[string]any{{"dst": "0.0.0.0/0"}},
			},
		}},
	})
	if err != nil {
		return fmt.Errorf("write the bridge's configuration: %w", err)
	}
	if err := writeAll("/etc/cni/net.d", map[string]string{"lab.conflist": string(network)}); err != nil {
		return err
	}
	// ctr has no option for either directory; Debian has the plugins elsewhere.
	for target, source := range map[string]string{"/opt/cni/bin": "/usr/lib/cni", "/etc/cdi": p.CDIDir} {
		if source == "" {
			continue
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
# Nothing of Kubernetes: it would want a network of its own and a sandbox's image.
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
address = %q
`, p.data(), p.exec(), p.Socket())
	return os.WriteFile(p.config(), []byte(config), 0o600)
}

func writeAll(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func quoted(words []string) string {
	var s []string
	for _, w := range words {
		s = append(s, fmt.Sprintf("%q", w))
	}
	return strings.Join(s, ", ")
}
