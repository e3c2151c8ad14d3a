package agent_test

import (
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"taskrole/internal/testkit/actor"
	"taskrole/lab/imds"
)

func TestContainersAreToldWhatTheHostIsAndNothingElse(t *testing.T) {
	w := newWorld(t)
	s, err := imds.New(imds.Options{Region: "us-east-1", AccountID: "999999999999", InstanceID: "i-0feed", PrivateIP: "10.0.0.9", RoleName: "the-hosts-role", TokensRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	host := httptest.NewServer(s)
	defer host.Close()
	w.stop()
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	configured := string(text) + "metadata: {instance_id: i-configured, tags: {Name: web}}\n"
	w.write("config.yaml", configured)
	// Not link-local, so nothing leaves this machine.
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", host.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	w.start()
	a := actor.Start(t, actor.NewNS(t), "")
	if _, err := w.attach("c0ffee", "reader", a, a); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimPrefix(a.Do("put "+tokenURL+" X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600"), "200 ")
	get := func(path string) string {
		return a.Do("get http://169.254.169.254/latest/" + path + " X-Aws-Ec2-Metadata-Token: " + token)
	}
	w.eventually("the host's service was asked", func() bool { return get("meta-data/instance-id") == "200 i-0feed" })
	for path, want := range map[string]string{
		"meta-data/placement/availability-zone":        "200 us-east-1a",
		"meta-data/local-ipv4":                         "200 10.0.0.9",
		"meta-data/tags/instance/Name":                 "200 web",
		"meta-data/iam/security-credentials/":          "200 task-s3-reader",
		"meta-data/network/interfaces/macs/":           "404 ",
		"user-data":                                    "404 ",
		"meta-data/identity-credentials/ec2/info":      "404 ",
		"meta-data/iam/security-credentials-extended/": "404 ",
	} {
		if got := get(path); !strings.HasPrefix(got, want) {
			t.Errorf("%s = %s, want %s", path, got, want)
		}
	}
	if doc := get("dynamic/instance-identity/document"); !strings.Contains(doc, `"instanceId": "i-0feed"`) || strings.Contains(doc, "999999999999") {
		t.Errorf("identity document: %s", doc)
	}
	if got := get("meta-data/iam/security-credentials/the-hosts-role"); !strings.Contains(got, "ASIA") || strings.Contains(got, "the-hosts-role") {
		t.Errorf("the host's role by its name = %s, want the container's own", got)
	}

	w.write("config.yaml", strings.Replace(configured, "{instance_id", "{host: false, instance_id", 1))
	w.sighup("configuration reloaded")
	w.eventually("the configuration's word alone", func() bool { return get("meta-data/instance-id") == "200 i-configured" })
	if got := get("meta-data/local-ipv4"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("with host: false, local-ipv4 = %s", got)
	}
}
