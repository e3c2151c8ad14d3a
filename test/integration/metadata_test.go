//go:build integration

package integration

import (
	"encoding/json"
	"strings"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// A collector in the container asks at once, while the engine has hardly finished the start: it is answered within the
// probe's patience, by this engine, about this container and no other.
func TestContainerIsToldAboutItselfAsOnECS(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		other := w.live(t, ec2.Container{Role: "reader", Args: []string{"serve"}})
		const uri = "http://169.254.170.2/v4/reader"
		if r := w.run(t, "reader", ec2.NetworkBridge, "env", "ECS_CONTAINER_METADATA_URI_V4"); string(r.Stdout) != "ECS_CONTAINER_METADATA_URI_V4="+uri+"\n" {
			t.Errorf("environment: %s%s", r.Stdout, r.Stderr)
		}
		var task struct {
			Family, KnownStatus string
			Containers          []struct {
				DockerID string `json:"DockerId"`
				Image    string
				Networks []struct{ IPv4Addresses []string }
			}
		}
		body := w.body(t, ec2.NetworkBridge, uri+"/task")
		if err := json.Unmarshal([]byte(body), &task); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if task.Family != "reader" || task.KnownStatus != "RUNNING" || len(task.Containers) != 1 {
			t.Fatalf("task: %s", body)
		}
		c := task.Containers[0]
		if c.DockerID == other || !strings.HasPrefix(c.Image, "probe") || len(c.Networks) != 1 || len(c.Networks[0].IPv4Addresses) != 1 {
			t.Errorf("container: %+v", c)
		}
		if body := w.body(t, ec2.NetworkNone, uri); !strings.Contains(body, `"NetworkMode":"none"`) {
			t.Errorf("without a network: %s", body)
		}
		if body := w.body(t, ec2.NetworkNone, uri+"/stats"); !strings.Contains(body, `"cpu_stats":{`) || !strings.Contains(body, `"memory_stats":{`) {
			t.Errorf("stats: %s", body)
		}
		if r := w.run(t, "keeper", ec2.NetworkNone, "env", "ECS_CONTAINER_METADATA_URI_V4"); len(r.Stdout) != 0 {
			t.Errorf("a role without task_metadata: %s", r.Stdout)
		}
	})
}

// The lab's instance has a metadata service, which the agent has asked; a container without any way there is told of the
// same instance, and finds its role at every address.
func TestContainerIsToldWhatTheInstanceIs(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		id := w.live(t, ec2.Container{Role: "reader", Network: ec2.NetworkNone})
		get := func(args ...string) string { return answered(t, w.exec(t, id, append([]string{"get"}, args...)...)) }
		const service = "http://169.254.169.254/2021-07-15/"
		token := strings.TrimSpace(get("-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", service+"api/token"))
		for path, want := range map[string]string{
			"meta-data/instance-id":                 cloud.InstanceID,
			"meta-data/placement/availability-zone": "us-east-1a",
			"meta-data/iam/security-credentials/":   cloud.TaskReader,
		} {
			if got := strings.TrimSpace(get("-H", "X-aws-ec2-metadata-token: "+token, service+path)); got != want {
				t.Errorf("%s = %q, want %q", path, got, want)
			}
		}
		for _, url := range []string{"http://169.254.170.23/v1/credentials", "http://127.0.0.1:61171/v1/credentials"} { // Docker 20.10 turns IPv6 off
			if body := get(url); !strings.Contains(body, cloud.RoleARN(cloud.TaskReader)) {
				t.Errorf("%s: %s", url, body)
			}
		}
	})
}

// body is what a new container with the role reader gets from url.
func (w *world) body(t *testing.T, network ec2.Network, url string) string {
	t.Helper()
	return answered(t, w.run(t, "reader", network, "get", url))
}

// answered is the body of the answer with status 200 that the probe printed.
func answered(t *testing.T, r ec2.Result) string {
	t.Helper()
	head, body, _ := strings.Cut(string(r.Stdout), "\r\n\n")
	if r.Exit != 0 || !strings.Contains(head, " 200 ") {
		t.Errorf("exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	return body
}
