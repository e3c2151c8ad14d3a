//go:build integration

package integration

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

// TestAWSCLI is a client that we did not write, in a language that we do not use: Debian's aws, with botocore.
func TestAWSCLI(t *testing.T) {
	w := use(t, worlds["docker-28.5"])
	w.importTree(t, "awscli", tree("client"))
	aws := func(role string, network ec2.Network, args ...string) ec2.Result {
		return w.start(t, ec2.Container{
			Image: "awscli", Role: role, Network: network,
			Args: append([]string{"aws", "--endpoint-url", w.instance.ServicesURL(), "--region", "us-east-1"}, args...),
		})
	}
	if r := aws("", ec2.NetworkNone, "s3", "ls"); r.Exit == 0 || !strings.Contains(string(r.Stderr), "Unable to locate credentials") {
		t.Errorf("plain, without a network: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	for _, network := range []ec2.Network{ec2.NetworkNone, ec2.NetworkBridge} {
		if r := aws("reader", network, "s3", "ls"); r.Exit != 0 || !strings.Contains(string(r.Stdout), cloud.Reports) {
			t.Errorf("with a role, %s: exit %d, %s%s", network, r.Exit, r.Stdout, r.Stderr)
		}
	}
	r := aws("reader", ec2.NetworkNone, "sts", "get-caller-identity", "--query", "Arn", "--output", "text")
	if !strings.Contains(string(r.Stdout), ":assumed-role/"+cloud.TaskReader+"/reader-") {
		t.Errorf("get-caller-identity: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
}

// importTree makes an image of a root file system.
func (w *world) importTree(tb testing.TB, image, dir string) {
	tb.Helper()
	importTree(tb, w.docker, image, dir, nil)
}

// importTree makes an image of a root file system, and of files beside it: path inside to path on this machine.
func importTree(tb testing.TB, d *ec2.Docker, image, dir string, files map[string]string, changes ...string) {
	tb.Helper()
	args := []string{"--create", "--directory=" + dir, "--exclude=./dev/*"}
	for inside, path := range files {
		args = append(args, "--transform=s,^"+strings.TrimPrefix(path, "/")+"$,"+inside+",", path)
	}
	tar := exec.CommandContext(tb.Context(), "tar", append(args, ".")...)
	out, err := tar.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := tar.Start(); err != nil {
		tb.Fatal(err)
	}
	err = d.ImportImage(tb.Context(), image, out, changes...)
	if err := errors.Join(err, tar.Wait()); err != nil {
		tb.Fatal(err)
	}
}
