package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/cdispec"
	"taskrole/internal/testkit/actor"
)

// CloudTrail tells containers apart by the session's name, so a container has one for its life.
func TestSessionNameIsTheSameForTheLifeOfTheContainer(t *testing.T) {
	w := newWorld(t)
	a := actor.Start(t, actor.NewNS(t), "")
	first, err := w.attach("c0ffee", "reader", a, a)
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", strings.Replace(string(text), "  reader:\n", "  reader:\n    session: \"other-{id}\"\n", 1))
	w.start()
	w.eventually("attached again", func() bool { return len(w.list()) == 1 })
	if again, err := w.attach("c0ffee", "reader", a, a); err != nil || again.Session != first.Session {
		t.Errorf("after a restart with another template: %s, %v, want %s", again.Session, err, first.Session)
	}
	b := actor.Start(t, actor.NewNS(t), "")
	if other, err := w.attach("decade", "reader", b, b); err != nil || other.Session != "other-decade" {
		t.Errorf("a new container: %s, %v", other.Session, err)
	}
}

// A container keeps the environment it was started with, so what it must send is decided then and for its life.
func TestInjectedTokenIsRequiredForTheLifeOfTheContainer(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.dir, "cdi", cdispec.FileName)
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a document with tokens: %v, %v, want 0600", info.Mode(), err)
	}
	edits, err := cdispec.Device(doc, "full")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, e := range edits.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	uri, token := env["AWS_CONTAINER_CREDENTIALS_FULL_URI"], env["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
	if uri != "http://127.0.0.1:61171/v1/credentials" || token == "" || env["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] != "" {
		t.Fatalf("environment of a role with inject: full: %v", edits.Env)
	}

	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "full", a, a); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for _, url := range []string{uri, "http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1/credentials", credentialsURL} {
			if got := a.Do("get " + url + " Authorization: " + token); !strings.HasPrefix(got, "200 ") {
				t.Errorf("%s, with the token: %s = %s", when, url, got)
			}
			if got := a.Do("get " + url); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "authorization-invalid") {
				t.Errorf("%s, without: %s = %s", when, url, got)
			}
		}
	}
	check("at first")
	w.stop()
	config, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.write("config.yaml", strings.Replace(string(config), "inject: full", "inject: relative", 1))
	w.start()
	w.eventually("attached again", func() bool { return len(w.list()) == 1 })
	check("after a restart with inject: relative")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode of a document without tokens: %v, %v, want 0644", info.Mode(), err)
	}
}
