package engine

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"taskrole/lab/ec2"
)

// defaultPath is what containers find in PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// writeBundle writes config.json.
func (e *Engine) writeBundle(r *run) error {
	b, err := json.Marshal(e.spec(r))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.bundle, "config.json"), b, 0o600)
}

func (e *Engine) spec(r *run) *specs.Spec {
	env := append([]string{"PATH=" + defaultPath, "HOME=/", "HOSTNAME=" + r.id[:12]}, r.c.Env...)
	if r.shim {
		env = append(env, "TASKROLE="+r.c.Role)
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Process:  &specs.Process{Args: r.c.Args, Env: env, Cwd: "/", NoNewPrivileges: true},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: r.id[:12],
		Mounts:   []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace},
		}},
		Annotations: r.c.Labels,
	}
	if r.c.Network != ec2.NetworkHost {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if e.cgroup != "" {
		s.Linux.CgroupsPath = path.Join(e.cgroup, r.id)
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	for outside, inside := range r.c.Files {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: inside, Source: outside, Options: []string{"bind", "ro"}})
	}
	slices.SortFunc(s.Mounts, func(a, b specs.Mount) int { return len(a.Destination) - len(b.Destination) }) // parents first
	return s
}
