package taskmeta

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"

	"taskrole/internal/container"
)

// cluster is what the tasks of all hosts are in: there are no clusters here, and the ARNs need one.
const cluster = "taskrole"

// full is the version from which documents have everything.
const full = 4

// taskDocument is a task, with ECS's names.
type taskDocument struct {
	Cluster          string
	TaskARN          string
	Family           string
	Revision         string
	DesiredStatus    string
	KnownStatus      string
	Limits           *taskLimits `json:",omitempty"`
	AvailabilityZone string      `json:",omitempty"`
	LaunchType       string      `json:",omitempty"`
	Containers       []containerDocument
}

type taskLimits struct {
	CPU    float64 `json:",omitempty"` // processors
	Memory int64   `json:",omitempty"` // MiB
}

// containerDocument is a container, with ECS's names.
type containerDocument struct {
	DockerID      string `json:"DockerId"`
	Name          string
	DockerName    string
	Image         string
	ImageID       string
	Labels        map[string]string
	DesiredStatus string
	KnownStatus   string
	Limits        containerLimits
	CreatedAt     string `json:",omitempty"`
	StartedAt     string `json:",omitempty"`
	Type          string
	LogDriver     string            `json:",omitempty"`
	LogOptions    map[string]string `json:",omitempty"`
	ContainerARN  string            `json:",omitempty"`
	Networks      []networkDocument
}

type containerLimits struct {
	CPU    int64 // shares
	Memory int64 // MiB
}

type networkDocument struct {
	NetworkMode   string
	IPv4Addresses []string
	IPv6Addresses []string `json:",omitempty"`
	MACAddress    string   `json:",omitempty"`
}

const mebibyte = 1 << 20

// taskID is a task's, in ECS's form of 32 digits, the same for the life of the container.
func (t *Task) taskID() string {
	const digits = 32
	sum := sha256.Sum256([]byte(t.o.Container.ID))
	return hex.EncodeToString(sum[:])[:digits]
}

// arn is the name of something in ECS. The region is empty where none is known.
func (t *Task) arn(what string) string {
	return "arn:" + t.o.RoleARN.Partition + ":ecs:" + t.o.Region + ":" + string(t.o.RoleARN.Account) + ":" + what
}

func (t *Task) taskARN() string { return t.arn("task/" + cluster + "/" + t.taskID()) }

func (t *Task) task(d container.Details, version int) taskDocument {
	doc := taskDocument{
		Cluster: cluster, TaskARN: t.taskARN(), Family: t.o.Role, Revision: "1", DesiredStatus: "RUNNING", KnownStatus: status(d.Status),
		AvailabilityZone: t.o.Zone(), Containers: []containerDocument{t.container(d, version)},
	}
	if d.CPUs > 0 || d.Memory > 0 {
		doc.Limits = &taskLimits{CPU: d.CPUs, Memory: d.Memory / mebibyte}
	}
	if version >= full {
		doc.LaunchType = "EXTERNAL" // ECS's word for a machine that is not its own
	}
	return doc
}

func (t *Task) container(d container.Details, version int) containerDocument {
	c := t.o.Container
	doc := containerDocument{
		DockerID: string(c.ID), Name: c.Title(), DockerName: c.Title(), Image: c.Image, ImageID: d.ImageID, Labels: t.labels(),
		DesiredStatus: "RUNNING", KnownStatus: status(d.Status), Limits: containerLimits{CPU: d.CPUShares, Memory: d.Memory / mebibyte},
		CreatedAt: d.Created, StartedAt: d.Started, Type: "NORMAL", Networks: networks(d, version),
	}
	if version >= full {
		doc.LogDriver, doc.LogOptions = d.LogDriver, d.AWSLogs
		doc.ContainerARN = t.arn("container/" + cluster + "/" + t.taskID() + "/" + c.ID.Short())
	}
	return doc
}

// labels are the container's own, with those that ECS adds, which nobody may choose otherwise.
func (t *Task) labels() map[string]string {
	labels := maps.Clone(t.o.Container.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	const ecs = "com.amazonaws.ecs."
	labels[ecs+"cluster"] = cluster
	labels[ecs+"container-name"] = t.o.Container.Title()
	labels[ecs+"task-arn"] = t.taskARN()
	labels[ecs+"task-definition-family"] = t.o.Role
	labels[ecs+"task-definition-version"] = "1"
	return labels
}

// networks are the container's, or one without addresses where it has none.
func networks(d container.Details, version int) []networkDocument {
	var docs []networkDocument
	for _, n := range d.Networks {
		doc := networkDocument{NetworkMode: n.Name, IPv4Addresses: addresses(n.IPv4), IPv6Addresses: addresses(n.IPv6)}
		if version >= full {
			doc.MACAddress = n.MAC
		}
		docs = append(docs, doc)
	}
	if docs == nil {
		docs = []networkDocument{{NetworkMode: d.NetworkMode, IPv4Addresses: []string{}}}
	}
	return docs
}

func addresses(a netip.Addr) []string {
	if !a.IsValid() {
		return []string{}
	}
	return []string{a.String()}
}

// status is ECS's word for the engine's.
func status(s string) string {
	switch s {
	case "running", "paused":
		return "RUNNING"
	case "created":
		return "CREATED"
	case "exited", "dead", "removing":
		return "STOPPED"
	}
	return "PENDING"
}
