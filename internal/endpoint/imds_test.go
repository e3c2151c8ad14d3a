package endpoint_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"taskrole/internal/endpoint"
	"taskrole/internal/instance"
)

// known is an instance of which everything is known.
func known(o *endpoint.Options) {
	f := &instance.Facts{
		ID: "i-0123456789abcdef0", Type: "t3.micro", ImageID: "ami-0123456789abcdef0", Architecture: "x86_64", Region: "eu-west-1",
		Zone: "eu-west-1a", ZoneID: "euw1-az1", LocalIPv4: "10.0.0.9", Hostname: "ip-10-0-0-9.eu-west-1.compute.internal",
		MAC: "0e:00:00:00:00:01", PendingTime: "2026-01-02T03:04:05Z", Tags: map[string]string{"Name": "web 1", "empty": ""},
	}
	o.IMDS, o.Instance = endpoint.V1AndV2, func() *instance.Facts { return f }
}

// Every path there is with its body, but for the documents that hold times and secrets.
func TestMetadataOfAKnownInstanceIsTheGoldenTree(t *testing.T) {
	w := newWorld(t, known)
	var b strings.Builder
	var walk func(path string)
	walk = func(path string) {
		a := w.do(http.MethodGet, imdsURL+path)
		if a.status != http.StatusOK {
			t.Fatalf("%s is listed and gives %d", path, a.status)
		}
		b.WriteString("== " + path + "\n" + a.body + "\n")
		if !strings.HasSuffix(path, "/") {
			return
		}
		for name := range strings.SplitSeq(a.body, "\n") {
			below := path + name
			switch {
			case path == "/latest/":
				below += "/"
			case below == "/latest/meta-data/iam/info", strings.HasPrefix(below, "/latest/meta-data/iam/security-credentials/task-"):
				continue
			}
			walk(below)
		}
	}
	walk("/latest/")
	golden(t, "metadata.txt", b.String())
	golden(t, "versions.txt", w.do(http.MethodGet, imdsURL+"/").body)
	golden(t, "not-found.html", w.do(http.MethodGet, imdsURL+"/latest/user-data").body)
}

func TestR11EveryVersionFollowsTheSameRules(t *testing.T) {
	w := newWorld(t, nil)
	token := w.token()
	listed := strings.Split(w.get(imdsURL+"/").body, "\n")
	for _, v := range append(listed, "2023-05-05", "2031-01-01") {
		base := imdsURL + "/" + v
		role := base + "/meta-data/iam/security-credentials/"
		for u, want := range map[string]int{base: 200, role: 200, role + "task-app": 200, base + "/user-data": 404, base + "/meta-data/iam/security-credentials-extended/": 404} {
			if a := w.do(http.MethodGet, u, tokenHdr, token); a.status != want {
				t.Errorf("%s with a token: %d, want %d", u, a.status, want)
			}
			for _, headers := range [][]string{nil, {tokenHdr, "INVALID"}} {
				if a := w.do(http.MethodGet, u, headers...); a.status != http.StatusUnauthorized || strings.Contains(a.body, "ASIA") {
					t.Errorf("%s with %v: %d, want 401", u, headers, a.status)
				}
			}
		}
		if a := w.do(http.MethodPut, base+"/api/token", ttl, "60"); a.status != http.StatusOK || a.header.Get(ttl) != "60" {
			t.Errorf("PUT %s/api/token: %d %s", base, a.status, a.body)
		}
		if a := w.do(http.MethodPut, base+"/api/token", ttl, "0"); a.status != http.StatusBadRequest {
			t.Errorf("PUT %s/api/token for 0 s: %d", base, a.status)
		}
		if a := w.do(http.MethodPut, base+"/api/token", ttl, "60", "X-Forwarded-For", "10.0.0.1"); a.status != http.StatusForbidden {
			t.Errorf("PUT %s/api/token through a proxy: %d", base, a.status)
		}
	}
	off := newWorld(t, func(o *endpoint.Options) { o.IMDS = endpoint.Off })
	for _, v := range listed {
		if a := off.do(http.MethodGet, imdsURL+"/"+v+"/meta-data/"); a.status != http.StatusForbidden {
			t.Errorf("%s where the service is off: %d, want 403", v, a.status)
		}
	}
}

func TestWhatIsNoVersionIsNotFound(t *testing.T) {
	w := newWorld(t, v1)
	for _, v := range []string{"Latest", "1.1", "2006-12-31", "2021-13-01", "2021-02-30", "2021-7-15", "20210715", "..", "meta-data", "api"} {
		for _, rest := range []string{"", "/", "/meta-data/iam/security-credentials/task-app"} {
			if a := w.do(http.MethodGet, imdsURL+"/"+v+rest); a.status != http.StatusNotFound {
				t.Errorf("/%s%s: %d, want 404", v, rest, a.status)
			}
		}
		if a := w.do(http.MethodPut, imdsURL+"/"+v+"/api/token", ttl, "60"); a.status != http.StatusMethodNotAllowed {
			t.Errorf("PUT /%s/api/token: %d, want 405", v, a.status)
		}
	}
}

// Whatever the host is, these are no business of a container.
func TestTheHostsSecretsAreNotInTheTree(t *testing.T) {
	w := newWorld(t, known)
	for _, path := range []string{
		"user-data", "dynamic/instance-identity/signature", "dynamic/instance-identity/pkcs7", "dynamic/instance-identity/rsa2048",
		"meta-data/identity-credentials/ec2/info", "meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
		"meta-data/iam-ecs-0/security-credentials/x", "meta-data/public-keys/0/openssh-key", "meta-data/managed-ssh-keys/signer-cert",
		"meta-data/network/interfaces/macs/", "meta-data/spot/instance-action",
	} {
		if a := w.do(http.MethodGet, imdsURL+"/latest/"+path); a.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

// Fluent Bit asks for every leaf with a slash behind it (rule R3).
func TestR3EveryLeafAlsoWithASlash(t *testing.T) {
	w := newWorld(t, known)
	for _, path := range []string{
		"meta-data/placement/availability-zone", "meta-data/instance-id", "meta-data/instance-type", "meta-data/ami-id", "meta-data/hostname",
		"meta-data/local-ipv4", "meta-data/mac", "meta-data/tags/instance/Name", "meta-data/tags/instance/empty", "dynamic/instance-identity/document",
	} {
		without, with := w.do(http.MethodGet, imdsURL+"/latest/"+path), w.do(http.MethodGet, imdsURL+"/latest/"+path+"/")
		if without.status != http.StatusOK || with.status != http.StatusOK || with.body != without.body {
			t.Errorf("%s: %d %q, with a slash %d %q", path, without.status, without.body, with.status, with.body)
		}
	}
}

func TestRegionOfTheRoleHidesAZoneElsewhere(t *testing.T) {
	w := newWorld(t, func(o *endpoint.Options) { known(o); o.Region = "us-east-1" })
	for path, want := range map[string]string{
		"placement/region": "us-east-1", "placement/": "region", "instance-id": "i-0123456789abcdef0",
	} {
		if a := w.do(http.MethodGet, imdsURL+"/latest/meta-data/"+path); a.body != want {
			t.Errorf("%s: %d %q, want %q", path, a.status, a.body, want)
		}
	}
	if d, err := imdsClient(w, imdsURL).GetInstanceIdentityDocument(t.Context(), nil); err != nil || d.Region != "us-east-1" || d.AvailabilityZone != "" {
		t.Errorf("identity document: %+v, %v", d, err)
	}
}

func TestGoSDKReadsTheIdentityDocument(t *testing.T) {
	w := newWorld(t, known)
	d, err := imdsClient(w, imdsURL).GetInstanceIdentityDocument(t.Context(), nil)
	if err != nil || d.InstanceID != "i-0123456789abcdef0" || d.AvailabilityZone != "eu-west-1a" || d.PendingTime.Year() != 2026 || d.PrivateIP != "10.0.0.9" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestTheTreeFollowsWhatIsKnown(t *testing.T) {
	var now atomic.Pointer[instance.Facts]
	now.Store(&instance.Facts{})
	w := newWorld(t, func(o *endpoint.Options) { o.IMDS, o.Instance = endpoint.V1AndV2, now.Load })
	u := imdsURL + "/latest/meta-data/instance-id"
	if a := w.do(http.MethodGet, u); a.status != http.StatusNotFound {
		t.Errorf("before it is known: %d %q", a.status, a.body)
	}
	for _, id := range []string{"i-1", "i-2"} {
		now.Store(&instance.Facts{ID: id})
		if a := w.do(http.MethodGet, u); a.body != id {
			t.Errorf("%q, want %q", a.body, id)
		}
	}
}

func TestVersionsAreInOrder(t *testing.T) {
	list := strings.Split(newWorld(t, v1).do(http.MethodGet, imdsURL).body, "\n")
	if !slices.IsSorted(list) || list[0] != "1.0" {
		t.Errorf("versions: %v", list)
	}
}
