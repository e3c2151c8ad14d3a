package ec2_test

import (
	"os"
	"testing"
	"time"

	"taskrole/internal/testkit"
	"taskrole/lab/ec2"
)

// self builds an image of this test program; tests are built with CGO_ENABLED=0 or skip.
func startDocker(t *testing.T, i *ec2.Instance, o ec2.DockerOptions) *ec2.Docker {
	t.Helper()
	begin := time.Now()
	d, err := ec2.NewDocker(t.Context(), i, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s up in %v", d.Name(), time.Since(begin))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := d.ImportFiles(t.Context(), "probe", map[string]string{"/probe": exe}, `ENTRYPOINT ["/probe","probe"]`); err != nil {
		t.Fatal(err)
	}
	t.Logf("image in %v", time.Since(begin))
	return d
}

func TestDocker(t *testing.T) {
	testkit.Need(t, testkit.Docker)
	i := launch(t, ec2.Options{})
	d := startDocker(t, i, ec2.DockerOptions{})
	r, err := d.Run(t.Context(), ec2.Container{Image: "probe", Args: []string{"GET", i.ServicesURL()}})
	t.Logf("%+v %v %s %s", r.Exit, err, r.Stdout, r.Stderr)
	t.Log(r.Elapsed)
}
