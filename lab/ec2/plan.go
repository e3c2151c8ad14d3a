package ec2

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// plan is what the supervisor of an engine is told: one line of JSON on its standard input. There is nothing secret
// in it.
type plan struct {
	Dir      string   // the engine's own directory, made by us and removed by the supervisor
	Root     string   // root file system of the engine; empty: the machine's
	Binds    []string // directories that must be at the same path inside Root, read-write
	CgroupV2 bool     // mount a fresh cgroup v2 hierarchy instead of what the machine has
	Cgroup   string   // name of the cgroup, below the root of every hierarchy, that holds all of the engine
	Runtime  string   // path of taskrole-runtime, or empty
	CDIDir   string   // directory of CDI documents, or empty
	Env      []string // of dockerd
}

// report is what the supervisor says: lines of JSON on its standard output.
type report struct {
	CLI   string   `json:",omitempty"` // path of the docker client inside the root: dockerd has been started
	Error string   `json:",omitempty"` // why it did not start, or why it ended
	Left  []string `json:",omitempty"` // what could not be removed at the end
}

func (p plan) data() string   { return filepath.Join(p.Dir, "data") }
func (p plan) exec() string   { return filepath.Join(p.Dir, "exec") }
func (p plan) root() string   { return filepath.Join(p.Dir, "root") }
func (p plan) log() string    { return filepath.Join(p.Dir, "log") }
func (p plan) config() string { return filepath.Join(p.Dir, "daemon.json") }
func (p plan) socket() string { return filepath.Join(p.Dir, "sock") }

// daemonConfig is dockerd's configuration file. major is the daemon's major version: it refuses keys it does not
// know.
func (p plan) daemonConfig(major int) ([]byte, error) {
	c := map[string]any{
		"data-root": p.data(),
		"exec-root": p.exec(),
		"pidfile":   filepath.Join(p.Dir, "pid"),
		"hosts":     []string{"unix://" + p.socket()},
		// The systemd driver would ask the machine's systemd for the cgroups, and we could not remove them.
		"exec-opts":             []string{"native.cgroupdriver=cgroupfs"},
		"cgroup-parent":         "/" + p.Cgroup + "/c",
		"storage-driver":        "overlay2",
		"iptables":              true,
		"bip":                   dockerBridge,
		"default-address-pools": []map[string]any{{"base": dockerPool, "size": 24}},
		// Nobody answers there, and nothing of the machine's resolver gets into a container.
		"dns": []string{servicesAddr},
	}
	if p.Runtime != "" {
		c["runtimes"] = map[string]any{"taskrole": map[string]any{"path": p.Runtime}}
	}
	if major >= cdiMajor {
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

// cdiMajor is the first Docker that knows CDI, behind a feature switch.
const cdiMajor = 25
