package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// loadSpec reads and checks the bundle's config.json; root.path comes back absolute.
func loadSpec(bundle string) (*specs.Spec, error) {
	b, err := readFile(bundle, "config.json")
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("decode config.json: %w", err)
	}
	switch {
	case s.Process == nil || len(s.Process.Args) == 0:
		return nil, errors.New("config.json names no process")
	case s.Process.Terminal:
		return nil, errors.New("terminals are not supported")
	case s.Root == nil || s.Root.Path == "":
		return nil, errors.New("config.json names no root")
	case s.Linux == nil:
		return nil, errors.New("config.json has no linux part")
	}
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(bundle, s.Root.Path)
	}
	if _, err := cloneFlags(&s); err != nil {
		return nil, err
	}
	return &s, checkCgroup(s.Linux.CgroupsPath)
}

// cloneFlags are the namespaces of the container that are to be new. A kind that config.json does not list is
// shared with the runtime, which is how a container gets the host's network.
func cloneFlags(s *specs.Spec) (uintptr, error) {
	kinds := map[specs.LinuxNamespaceType]uintptr{
		specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS, specs.UTSNamespace: unix.CLONE_NEWUTS,
		specs.IPCNamespace: unix.CLONE_NEWIPC, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
	}
	var flags uintptr
	for _, n := range s.Linux.Namespaces {
		flag, ok := kinds[n.Type]
		if !ok || n.Path != "" {
			return 0, fmt.Errorf("namespace %q with path %q is not supported", n.Type, n.Path)
		}
		flags |= flag
	}
	if flags&unix.CLONE_NEWNS == 0 || flags&unix.CLONE_NEWPID == 0 {
		return 0, errors.New("a container without a mount and a pid namespace of its own is not supported")
	}
	return flags, nil
}

func hasNewNetwork(s *specs.Spec) bool {
	flags, err := cloneFlags(s)
	return err == nil && flags&unix.CLONE_NEWNET != 0
}

func checkCgroup(path string) error {
	if path == "" {
		return nil
	}
	if !strings.HasPrefix(path, "/") || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("cgroup %q is not a clean absolute path below the root", path)
	}
	return nil
}
