package ec2_test

import (
	"net/http"
	"testing"

	"taskrole/internal/testkit"
	"taskrole/lab/cloud"
	"taskrole/lab/ec2"
)

var _ ec2.Cloud = (*cloud.Cloud)(nil)

// tokenURL is what SDKs ask first: PUT, with a header that the client of these tests does not send, so that the
// answer is a refusal. It has the hop limit like any other answer to a PUT.
const tokenURL = metadata + "latest/api/token"

func TestHopLimitOfTheRealMetadataServiceCanBeChanged(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	c, err := cloud.New(cloud.Options{HopLimit: 1})
	if err != nil {
		t.Fatal(err)
	}
	path := client(t)
	i := launch(t, ec2.Options{Cloud: c})
	d := startDocker(t, i, ec2.DockerOptions{}, path)
	for _, limit := range []int{1, 2, 1} {
		if err := c.SetHopLimit(limit); err != nil {
			t.Fatal(err)
		}
		want := map[int]int{1: 1, 2: 0}[limit]
		if r := run(t, d, ec2.Container{Args: []string{http.MethodPut, tokenURL}}); r.Exit != want {
			t.Errorf("hop limit %d: PUT from a container: exit %d, %s, want %d", limit, r.Exit, r.Stderr, want)
		}
		if exit, out := finish(t, i.Start, path, http.MethodPut, tokenURL); exit != 0 {
			t.Errorf("hop limit %d: PUT from the instance: exit %d, %s", limit, exit, out)
		}
	}
	if exit, out := finish(t, i.Start, path, http.MethodGet, i.ServicesURL()); exit != 0 || out == "" {
		t.Errorf("S3 from the instance: exit %d, %s", exit, out)
	}
}
