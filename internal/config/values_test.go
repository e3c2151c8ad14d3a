package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"taskrole/internal/arn"
	"taskrole/internal/config"
	"taskrole/internal/container"
)

func TestEndpoints(t *testing.T) {
	for in, want := range map[string]string{
		"https://s3.eu-central-1.amazonaws.com": "https://s3.eu-central-1.amazonaws.com",
		"http://10.99.0.1":                      "http://10.99.0.1",
		"HTTP://Minio:9000/":                    "http://minio:9000",
		"https://[2001:db8::1]:443":             "https://[2001:db8::1]:443",
		"http://127.0.0.1:8080":                 "http://127.0.0.1:8080",
	} {
		if got, err := config.Endpoint(in); err != nil || got != want {
			t.Errorf("endpoint %s = %s, %v, want %s", in, got, err, want)
		}
		if got, err := config.Endpoint(want); err != nil || got != want {
			t.Errorf("endpoint %s is not stable: %s, %v", want, got, err)
		}
	}
}

// Every way to write the address of a metadata service that some resolver understands.
func TestEndpointsThatAreRefused(t *testing.T) {
	for _, in := range []string{
		"", "h", "h:443", "ftp://h", "//h", "http:h", "https://", "https://h/path", "https://h?q", "https://h?", "https://h#f",
		"https://h#", "https://u@h", "https://u:p@h", "https://h:", "https://h:0", "https://h:65536", "https://h:+1", "https://h:01",
		"https://h..x", "https://-h", "https://h.", "https://h_x", "https://h h", "https://*.amazonaws.com", "https://h\n",
		"http://169.254.169.254", "http://169.254.170.2:80", "http://[::ffff:169.254.169.254]", "http://[fe80::1]",
		"http://[fe80::1%25eth0]", "http://[fd00:ec2::254]", "http://[64:ff9b::a9fe:a9fe]", "http://[2002:a9fe:a9fe::1]",
		"http://2852039166", "http://0xa9fea9fe", "http://0xa9.0xfe.0xa9.0xfe", "http://169.254.43518", "http://0251.0376.0251.0376",
		"http://169.254.169.254.", "http://0.0.0.0", "http://[::]", "http://224.0.0.1", "http://[ff02::1]", "http://255.255.255.255",
		"http://%31%36%39.254.169.254", "http://１６９.254.169.254", "https://" + strings.Repeat("a", 64), "https://" + strings.Repeat("a.", 130) + "a",
	} {
		if got, err := config.Endpoint(in); err == nil {
			t.Errorf("endpoint %q = %q, want an error", in, got)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"account", "region", "roles", "runtime", "socket"}
	for in, want := range map[string][]string{
		"role": {"roles"}, "rgeion": {"region"}, "accounts": {"account"}, "x": nil, "": nil, "runtime_path": nil,
	} {
		if d := cmp.Diff(want, config.Nearest(in, names)); d != "" {
			t.Errorf("nearest %q (-want +got):\n%s", in, d)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"abc", "xyz", 3}, {"", "abc", 3}} {
		if got := config.Distance(c.a, c.b); got != c.want {
			t.Errorf("distance of %q and %q = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

const dockerID = container.ID("3f2a91b0c4d5e6f70123456789abcdef0123456789abcdef0123456789abcdef")

func TestSessionName(t *testing.T) {
	for name, c := range map[string]struct {
		template, role string
		c              container.Container
		host, want     string
	}{
		"default":             {"{role}-{id}", "s3-reader", container.Container{ID: dockerID}, "h", "s3-reader-3f2a91b0c4d5"},
		"all":                 {"{name}@{host},{role}={id}", "r", container.Container{ID: dockerID, Name: "web"}, "h1", "web@h1,r=3f2a91b0c4d5"},
		"unknown_name":        {"{name}", "r", container.Container{ID: dockerID}, "h", "3f2a91b0c4d5"},
		"characters":          {"{name}", "r", container.Container{ID: dockerID, Name: "wéb/1 x"}, "h", "w--b-1-x"},
		"id_survives":         {"{role}-{id}", strings.Repeat("r", 63), container.Container{ID: dockerID}, "h", strings.Repeat("r", 51) + "-3f2a91b0c4d5"},
		"longest_part_is_cut": {"{role}.{host}.{id}", "role", container.Container{ID: dockerID}, strings.Repeat("h", 90), "role." + strings.Repeat("h", 46) + ".3f2a91b0c4d5"},
		"other_id_whole":      {"{id}", "r", container.Container{ID: "my-pod_1"}, "h", "my-pod_1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config.Role{Name: c.role, Session: c.template}.SessionName(c.c, c.host)
			if err != nil || got != c.want {
				t.Errorf("SessionName = %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestSessionNameFallsBackToTheID(t *testing.T) {
	for template, want := range map[string]string{"{host}": "3f2a91b0c4d5", "{role}": "r-3f2a91b0c4d5", "{name}": "---3f2a91b0c4d5"} {
		got, err := config.Role{Name: "r", Session: template}.SessionName(container.Container{ID: dockerID, Name: "ü"}, "")
		if err != nil || got != want {
			t.Errorf("SessionName with %s = %q, %v, want %q", template, got, err, want)
		}
	}
	if got, err := (config.Role{Name: "r", Session: "{host}"}).SessionName(container.Container{}, ""); err == nil {
		t.Errorf("SessionName without an id = %q, want an error", got)
	}
}

// Pods of one name and different numbers must not share a session.
func TestLongIDsAreToldApart(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []container.ID{"my-very-long-pod-name-number-1", "my-very-long-pod-name-number-2"} {
		got, err := config.Role{Name: "r", Session: "{id}"}.SessionName(container.Container{ID: id}, "")
		if err != nil || len(got) != 24 || !strings.HasPrefix(got, "my-very-lon-") || seen[got] {
			t.Errorf("SessionName of %s = %q, %v, want 24 characters that no other id has", id, got, err)
		}
		seen[got] = true
	}
}

// What Parse lets through becomes a valid session name for every container, and names it.
func TestAcceptedTemplatesMakeValidNames(t *testing.T) {
	part := rapid.SampledFrom([]string{"{id}", "{name}", "{role}", "{host}", "-", "a.b", "@", "x=,", "{", " ", strings.Repeat("l", 20)})
	rapid.Check(t, func(t *rapid.T) {
		template := strings.Join(rapid.SliceOfN(part, 1, 6).Draw(t, "parts"), "")
		c, err := config.Parse("c", []byte("account: 123456789012\nroles: {a: {allow: [any: true], session: '"+template+"'}}\n"))
		if err != nil {
			return
		}
		box := container.Container{ID: dockerID, Name: rapid.StringN(0, 100, 300).Draw(t, "name")}
		got, err := c.Roles[0].SessionName(box, rapid.StringMatching(`[a-z0-9.]{2,80}`).Draw(t, "host"))
		if err != nil {
			t.Fatalf("SessionName with %q: %v", template, err)
		}
		if err := arn.CheckSessionName(got); err != nil {
			t.Fatalf("SessionName with %q = %q: %v", template, got, err)
		}
		if strings.Contains(template, "{id}") && !strings.Contains(got, dockerID.Short()) {
			t.Fatalf("SessionName with %q = %q, which does not name the container", template, got)
		}
	})
}
