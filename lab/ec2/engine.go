package ec2

import (
	"context"
	"time"

	"taskrole/internal/container"
)

// Network says how a container is connected, in the words of docker run --network.
type Network string

// The networks an engine of the lab knows.
const (
	NetworkBridge Network = "bridge" // the engine's default network, routed through the instance
	NetworkCustom Network = "custom" // a user-defined bridge, routed through the instance
	NetworkHost   Network = "host"   // the instance's own network namespace
	NetworkNone   Network = "none"   // a namespace with lo and nothing else
)

// Container is one container to run. The zero value of a field means that nothing is asked for.
type Container struct {
	// Name must be unique in the engine while the container exists; empty lets the engine choose.
	Name string
	// Image is an image the engine was given before; nothing is ever pulled.
	Image string
	// Network is NetworkBridge when empty.
	Network Network
	// Env is the environment as KEY=VALUE, beside what the image or the way in adds.
	Env []string
	// Files are made visible in the container, read-only: path on this machine to path inside.
	Files map[string]string
	// Labels are the engine's labels.
	Labels map[string]string
	// Args is the command and its arguments.
	Args []string
	// Role is the task role asked for; it is ignored when Way is empty.
	Role string
	// Way is how the container comes to taskrole; empty is a plain container that knows nothing of it.
	Way container.Way
	// Options are further options of docker run; ctr knows --cap-drop of them. The namespace engine has none.
	Options []string
	// Detach returns from Run as soon as the container has started. It then lives until it ends by itself or the
	// engine is closed.
	Detach bool
}

// Result is how a container ended. Of a detached one, Exit says whether it started and Stdout is its id.
type Result struct {
	// Exit is the exit status of the command, or the engine's own (125 to 127) when the container did not start.
	Exit int
	// Stdout and Stderr are what the command wrote; a refusal by the engine is in Stderr, in the engine's words.
	Stdout, Stderr []byte
	// Elapsed runs from the request to the engine until the answer, the container's own time included.
	Elapsed time.Duration
}

// Engine runs containers inside an instance.
type Engine interface {
	// Name is for people: "docker 20.10.24", "namespace".
	Name() string
	// Run starts c and, unless it is detached, waits for it. The error says that the engine could not be asked;
	// a container that was refused or that failed is a Result with Exit other than 0.
	Run(ctx context.Context, c Container) (Result, error)
	// Close ends all containers and the engine, and removes everything it made. Calling it again is harmless.
	Close() error
}
