package docker

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"taskrole/internal/fault"

	"github.com/moby/moby/client"
)

// Addresses returns the names of the containers that run, by their addresses on the engine's networks. The error is a
// fault: engine-unreachable.
func (e *Engine) Addresses(ctx context.Context) (map[netip.Addr]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil, fault.Wrap(err, fault.EngineUnreachable, fmt.Sprintf("the engine at %s does not say which containers run", e.host),
			"check that it runs and that engines.docker in the configuration names its socket")
	}
	names := map[netip.Addr]string{}
	for _, c := range list.Items {
		if len(c.Names) == 0 || c.NetworkSettings == nil {
			continue
		}
		for _, n := range c.NetworkSettings.Networks {
			if n == nil {
				continue
			}
			for _, a := range []netip.Addr{n.IPAddress, n.GlobalIPv6Address} {
				if a.IsValid() {
					names[a] = strings.TrimPrefix(c.Names[0], "/")
				}
			}
		}
	}
	return names, nil
}
