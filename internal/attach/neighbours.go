package attach

import (
	"fmt"
	"slices"
	"time"

	"taskrole/internal/attest"
	"taskrole/internal/container"
	"taskrole/internal/fault"
)

// admissible decides whether e may live beside the others. Containers in one namespace are told apart by their cgroups,
// but not kept apart: whoever may open a packet socket there reads what the others are answered on lo.
func (p *place) admissible(e *entry, others []*entry) error {
	if err := p.distinct(e, others); err != nil {
		return err
	}
	if e.target.Mixed && !slices.ContainsFunc(others, func(r *entry) bool { return !r.target.Mixed }) {
		return nil // the administrator has said so for every role here
	}
	if !slices.ContainsFunc(others, func(r *entry) bool { return r.target.Role != e.target.Role }) {
		return nil
	}
	for _, r := range slices.Concat(others, []*entry{e}) {
		if !r.target.Confined {
			return overheard(e, others, "container "+r.title()+" has")
		}
	}
	if p.host {
		return nil // its other processes are the host's own, which need no packet socket to do harm
	}
	return p.unheard(e, others)
}

// distinct refuses whom no cgroup of its own tells from the others. One that no engine made for the container will not do:
// started without a cgroup of its own, a container is in that of whoever started it, with all that runs there.
func (p *place) distinct(e *entry, others []*entry) error {
	if p.host && !e.named {
		return fault.New(fault.HostNetwork,
			fmt.Sprintf("container %s uses the host's network, and no cgroup of its own tells it from the host's processes", e.target.ID.Short()),
			"boot the host with cgroup v2, or give the container a network of its own (--network bridge, or --network none with egress)")
	}
	for _, r := range others {
		if !e.named || !r.named || e.cgroup.ID == r.cgroup.ID {
			return fault.New(fault.NamespaceShared,
				fmt.Sprintf("container %s uses the network namespace of container %s, which has the role %s, and no cgroup tells them apart",
					e.target.ID.Short(), r.target.ID.Short(), r.target.Role),
				"give it a network of its own, or boot the host with cgroup v2")
		}
	}
	return nil
}

func overheard(e *entry, others []*entry, who string) error {
	other := others[slices.IndexFunc(others, func(r *entry) bool { return r.target.Role != e.target.Role })]
	return fault.New(fault.NamespaceShared,
		fmt.Sprintf("container %s would share a network namespace with container %s of the role %s, where %s NET_RAW or NET_ADMIN and could read the other's credentials",
			e.target.ID.Short(), other.target.ID.Short(), other.target.Role, who),
		"start each of them with --cap-drop NET_RAW, give it a network of its own, or set share_network in both roles")
}

// How long a container that is just being started may keep its many capabilities.
const (
	dropping = 2 * time.Second
	look     = 50 * time.Millisecond
)

// unheard looks at the processes in the namespace that belong to nobody with a role. One that is just being started still
// has all capabilities of its runtime, and is looked at again.
func (p *place) unheard(e *entry, others []*entry) error {
	var known []attest.Cgroup
	for _, r := range append(slices.Clone(others), e) {
		known = append(known, r.cgroup)
	}
	deadline := time.NewTimer(dropping)
	defer deadline.Stop()
	for {
		strangers, err := p.a.o.Tree.Eavesdroppers(e.process)
		if err != nil {
			return step(err, e, "see who else is in its network namespace")
		}
		strangers = slices.DeleteFunc(strangers, func(s attest.Eavesdropper) bool {
			i, err := p.a.o.Tree.Nearest(s.Cgroup, known)
			return err == nil && i >= 0
		})
		if len(strangers) == 0 {
			return nil
		}
		again := time.NewTimer(look)
		select {
		case <-again.C:
		case <-deadline.C:
			again.Stop()
			return overheard(e, others, fmt.Sprintf("process %d (%.32q) has", strangers[0].PID, strangers[0].Name))
		}
	}
}

// title is how a person knows e.
func (e *entry) title() string {
	if e.service.Container.ID == "" {
		return container.Container{ID: e.target.ID}.Title()
	}
	return e.service.Container.Title()
}
