package cdispec_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"taskrole/internal/cdispec"
	"taskrole/internal/fault"
	"taskrole/internal/ociedit"
)

var update = flag.Bool("update", false, "write the golden file anew")

var (
	roles = []cdispec.Role{
		{Name: "full", FullURI: "http://127.0.0.1:61171/v1/credentials", Token: "dG9rZW4", TaskMetadata: true},
		{Name: "isolated", Region: "eu-central-1", Proxy: true},
		{Name: "lab", Region: "us-east-1", Proxy: true, ProxyPlainHTTP: true},
		{Name: "s3-reader"},
	}
	command = cdispec.HookCommand{Path: "/usr/lib/taskrole/taskrole-runtime", Socket: "/run/taskrole/agent.sock", Timeout: 30}
)

func build(tb testing.TB) []byte {
	tb.Helper()
	doc, err := cdispec.Build(roles, command)
	if err != nil {
		tb.Fatalf("Build: %v", err)
	}
	return doc
}

func TestBuildWritesTheGoldenDocument(t *testing.T) {
	golden := filepath.Join("testdata", "taskrole.json")
	if *update {
		if err := os.WriteFile(golden, build(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(build(t))); d != "" {
		t.Errorf("Build (-golden +got):\n%s", d)
	}
}

// What Docker and Podman do with the file, with their own library.
func TestEnginesAcceptTheDocument(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, cdispec.FileName), build(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatalf("the library refuses the directory: %v", err)
	}
	if errs := cache.GetErrors(); len(errs) > 0 {
		t.Fatalf("the library refuses the document: %v", errs)
	}
	want := []string{"taskrole/role=full", "taskrole/role=isolated", "taskrole/role=lab", "taskrole/role=s3-reader"}
	if d := cmp.Diff(want, cache.ListDevices()); d != "" {
		t.Fatalf("devices (-want +got):\n%s", d)
	}
	for _, r := range roles {
		bySpec := &specs.Spec{Process: &specs.Process{Env: []string{"PATH=/bin"}}}
		if _, err := cache.InjectDevices(bySpec, "taskrole/role="+r.Name); err != nil {
			t.Fatalf("inject %s: %v", r.Name, err)
		}
		if d := cmp.Diff(*bySpec, byShim(t, r.Name)); d != "" {
			t.Errorf("%s: the engine's way and the shim's differ (-engine +shim):\n%s", r.Name, d)
		}
	}
}

func byShim(t *testing.T, name string) specs.Spec {
	t.Helper()
	e, err := cdispec.Device(build(t), name)
	if err != nil {
		t.Fatalf("Device(%q): %v", name, err)
	}
	doc, err := ociedit.Apply([]byte(`{"ociVersion":"","process":{"cwd":"","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}}`), e)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	var s specs.Spec
	if err := json.Unmarshal(doc, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDeviceReadsBackWhatBuildWrote(t *testing.T) {
	got, err := cdispec.Device(build(t), "s3-reader")
	if err != nil {
		t.Fatal(err)
	}
	want := ociedit.Edits{
		Env: []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/s3-reader"},
		Hooks: []ociedit.Hook{{
			Path:    command.Path,
			Args:    []string{"taskrole-runtime", "hook", "--role", "s3-reader", "--socket", command.Socket},
			Timeout: 30,
		}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Device (-want +got):\n%s", d)
	}
}

func TestDeviceNamesTheRolesThereAre(t *testing.T) {
	for _, name := range []string{"s3-writer", "", "S3-reader", strings.Repeat("x", 1<<20)} {
		_, err := cdispec.Device(build(t), name)
		if fault.CodeOf(err) != fault.RoleUnknown || !strings.Contains(err.Error(), "isolated, lab, s3-reader") || len(err.Error()) > 300 {
			t.Errorf("Device(%.20q) = %.300v, want a fault role-unknown with all names", name, err)
		}
	}
}

func TestDeviceRefusesWhatBuildDoesNotWrite(t *testing.T) {
	good := string(build(t))
	for name, doc := range map[string]string{
		"empty":            "",
		"truncated":        good[:len(good)/2],
		"not_json":         "cdiVersion: 0.5.0",
		"something_after":  good + "{}",
		"other_kind":       strings.Replace(good, "taskrole/role", "nvidia.com/gpu", 1),
		"other_version":    strings.Replace(good, "0.5.0", "0.6.0", 1),
		"other_hook":       strings.ReplaceAll(good, "createRuntime", "poststop"),
		"edits_for_all":    strings.Replace(good, `"devices"`, `"containerEdits":{"env":["X=1"]},"devices"`, 1),
		"mounts":           strings.Replace(good, `"env"`, `"mounts":[{"hostPath":"/","containerPath":"/h"}],"env"`, 1),
		"nothing_to_do":    `{"cdiVersion":"0.5.0","kind":"taskrole/role","devices":[{"name":"isolated","containerEdits":{}}]}`,
		"huge":             good + strings.Repeat(" ", cdispec.MaxSize),
		"absurdly_deep":    strings.Repeat(`{"devices":[`, 1<<16),
		"devices_a_number": `{"cdiVersion":"0.5.0","kind":"taskrole/role","devices":3}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := cdispec.Device([]byte(doc), "isolated"); err == nil {
				t.Errorf("Device = %v, want an error", got)
			}
		})
	}
}

func TestBuildRefusesWhatEnginesWould(t *testing.T) {
	if doc, err := cdispec.Build(nil, command); err == nil {
		t.Errorf("Build of no roles = %s, want an error", doc)
	}
	for _, c := range []cdispec.HookCommand{{Path: "taskrole-runtime", Socket: "/s"}, {Path: "/h"}} {
		if doc, err := cdispec.Build(roles, c); err == nil {
			t.Errorf("Build with %v = %s, want an error", c, doc)
		}
	}
}

// FuzzDevice: whatever the file holds, there are edits that Apply can use, or an error.
func FuzzDevice(f *testing.F) {
	f.Add(build(f), "s3-reader")
	f.Add([]byte(`{"cdiVersion":"0.5.0","kind":"taskrole/role","devices":[{"name":"a","containerEdits":{"env":["A"]}}]}`), "a")
	f.Fuzz(func(t *testing.T, doc []byte, name string) {
		e, err := cdispec.Device(doc, name)
		if err == nil && (len(e.Env) == 0 || len(e.Hooks) == 0) {
			t.Fatalf("Device(%q, %q) = %v: edits that give no role", doc, name, e)
		}
	})
}
