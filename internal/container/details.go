package container

import "net/netip"

// Details are what an engine knows of a container that runs, beyond what its list call tells. They are for telling the
// container about itself, and decide nothing.
type Details struct {
	ImageID   string // sha256:…
	Status    string // as the engine has it: running, paused, exited…
	Created   string // RFC 3339
	Started   string // RFC 3339, or empty
	LogDriver string
	// AWSLogs are the log driver's options if it is awslogs. Those of other drivers may hold secrets, and are left out.
	AWSLogs map[string]string
	// NetworkMode is the engine's word for the network: bridge, none, a network's name.
	NetworkMode string
	Networks    []Network
	CPUShares   int64   // 0: no limit
	CPUs        float64 // 0: no limit
	Memory      int64   // bytes; 0: no limit
}

// Network is one the container is in.
type Network struct {
	Name       string
	IPv4, IPv6 netip.Addr // invalid: none
	MAC        string
}
