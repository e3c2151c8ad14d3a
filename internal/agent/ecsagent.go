package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// The ports an ECS agent listens on: 51678 for its own API (introspection), 51679 for credentials, to which it redirects
// 169.254.170.2 (README of the Amazon ECS container agent).
const (
	ecsIntrospection = 51678
	ecsCredentials   = 51679
)

// noECSAgent refuses a container on the host's network where an ECS agent serves: it has the address 169.254.170.2 for
// its own tasks by a rule of the packet filter, which no list of addresses shows.
func noECSAgent(id container.ID) error {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		port, err := listensOn(table, ecsIntrospection, ecsCredentials)
		if err != nil {
			return fault.Wrap(err, fault.Internal, "the agent could not see which ports the host listens on", "look at the agent's log")
		}
		if port != 0 {
			return fault.New(fault.HostNetwork,
				fmt.Sprintf("container %s uses the host's network, where an ECS agent listens on port %d and has the address 169.254.170.2 for its tasks", id.Short(), port),
				"stop the ECS agent, or give the container a network of its own")
		}
	}
	return nil
}

// listensOn returns the first of the ports that somebody listens on by the table (proc_pid_net(5)), or 0.
func listensOn(table string, ports ...uint16) (uint16, error) {
	f, err := os.Open(table)
	if errors.Is(err, fs.ErrNotExist) { // no IPv6
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	const localAddress, state, listening = 1, 3, "0A"
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) <= state || fields[state] != listening {
			continue
		}
		_, hex, _ := strings.Cut(fields[localAddress], ":")
		got, err := strconv.ParseUint(hex, 16, 16)
		for _, port := range ports {
			if err == nil && uint16(got) == port {
				return port, nil
			}
		}
	}
	return 0, nil
}
