package engineroot

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// Plan is what the supervisor of an engine is told: one line of JSON on its standard input. There is nothing secret
// in it.
type Plan struct {
	Kind     Kind
	Dir      string   // the engine's own directory, made by us and removed by the supervisor
	Root     string   // root file system of the engine; empty: the machine's
	Binds    []string // directories that must be at the same path inside Root, read-write
	CgroupV2 bool     // mount a fresh cgroup v2 hierarchy instead of what the machine has
	Cgroup   string   // name of the cgroup, below the root of every hierarchy, that holds all of the engine
	Runtime  string   // path of taskrole-runtime, or empty
	CDIDir   string   // directory of CDI documents, or empty
	Bridge   string   // address and length of the default bridge: 10.99.16.1/24
	Pool     string   // user-defined networks get a /24 each out of it
	DNS      string   // resolver of the containers
	Env      []string // of the daemon
}

// Report is what the supervisor says: lines of JSON on its standard output.
type Report struct {
	CLI   string   `json:",omitempty"` // path of the client inside the root: the daemon has been started
	Error string   `json:",omitempty"` // why it did not start, or why it ended
	Left  []string `json:",omitempty"` // what could not be removed at the end
}

func (p Plan) data() string   { return filepath.Join(p.Dir, "data") }
func (p Plan) exec() string   { return filepath.Join(p.Dir, "exec") }
func (p Plan) root() string   { return filepath.Join(p.Dir, "root") }
func (p Plan) config() string { return filepath.Join(p.Dir, "daemon.json") }

// Log is the path of the daemon's log.
func (p Plan) Log() string { return filepath.Join(p.Dir, "log") }

// Socket is the path of the daemon's socket, inside the engine's root and outside.
func (p Plan) Socket() string { return filepath.Join(p.Dir, "sock") }

// Containers is the path of the containers' cgroup below the root of a hierarchy.
func (p Plan) Containers() string { return "/" + p.Cgroup + "/c" }

// Daemons is the directory of the cgroup of the engine's own programs, inside the engine's root.
func (p Plan) Daemons() string { return filepath.Join(p.Dir, "cgroup", p.Cgroup, "d") }

// maxSocketPath is how long the path of a Unix socket may be (unix(7)).
const maxSocketPath = 107

// CheckLength says whether the sockets of an engine in dir have paths that the kernel takes.
func CheckLength(dir string) error {
	longest := filepath.Join(Plan{Dir: dir}.exec(), "containerd/containerd-debug.sock")
	if n := len(longest) - maxSocketPath; n > 0 {
		return fmt.Errorf("directory %s is too long for docker's sockets by %d bytes", dir, n)
	}
	return nil
}

// daemonConfig is dockerd's configuration file. major is the daemon's major version: it refuses keys it does not
// know.
func (p Plan) daemonConfig(major int) ([]byte, error) {
	c := map[string]any{
		"data-root": p.data(),
		"exec-root": p.exec(),
		"pidfile":   filepath.Join(p.Dir, "pid"),
		"hosts":     []string{"unix://" + p.Socket()},
		// The systemd driver would ask the machine's systemd for the cgroups, and we could not remove them.
		"exec-opts":             []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":         p.Containers(),
		"storage-driver":        "overlay2",
		"iptables":              true,
		"bip":                   p.Bridge,
		"default-address-pools": []map[string]any{{"base": p.Pool, "size": 24}},
		// Whether anybody answers there or not, nothing of the machine's resolver gets into a container.
		"dns": []string{p.DNS},
	}
	if p.Runtime != "" {
		c["runtimes"] = map[string]any{"taskrole": map[string]any{"path": p.Runtime}}
	}
	if major >= CDIMajor {
		c["features"] = map[string]bool{"cdi": true} // the default since 28.2
		if p.CDIDir != "" {
			c["cdi-spec-dirs"] = []string{p.CDIDir}
		}
	}
	out, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	return out, nil
}

// CDIMajor is the major version of the first Docker that knows CDI, behind a feature switch.
const CDIMajor = 25
