package agent_test

import (
	"strings"
	"testing"
	"time"

	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/lab/cloud"
)

func TestRolesAreDescribed(t *testing.T) {
	w := newWorld(t)
	roles, err := control.Roles(t.Context(), w.socket)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range roles {
		names = append(names, r.Name+": "+strings.Join(r.Allow, "; "))
	}
	want := `forbidden: name "nobody-has-this-name", full: any container, reader: any container, untrusted: any container`
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("roles = %s, want %s", got, want)
	}
}

func TestCheckAsksAWSEachTime(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		c, err := control.Check(t.Context(), w.socket, "reader")
		if err != nil || c.RoleARN != cloud.RoleARN(cloud.TaskReader) || c.Session != "reader-check" || time.Until(c.Expires) < 50*time.Minute {
			t.Errorf("Check = %+v, %v", c, err)
		}
	}
	if n := w.cloud.Calls().Counts["sts"]["AssumeRole"]; n != 2 {
		t.Errorf("%d calls of AssumeRole, want 2", n)
	}
	_, err := control.Check(t.Context(), w.socket, "untrusted")
	if f := fault.As(err); f.Code != fault.STSDenied || f.Hint == "" {
		t.Errorf("Check of a role that does not trust the host = %v", err)
	}
	_, err = control.Check(t.Context(), w.socket, "raeder")
	if f := fault.As(err); f.Code != fault.RoleUnknown || !strings.Contains(f.Hint, "reader") {
		t.Errorf("Check of an unknown role = %v", err)
	}
}

func TestCredentialsForACommandAreNotedInTheLog(t *testing.T) {
	w := newWorld(t)
	c, err := control.Credentials(t.Context(), w.socket, control.CredentialsRequest{Role: "reader", Use: "env"})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Credentials.Complete() || c.Session != "reader-env" || c.Region != "us-east-1" {
		t.Errorf("Credentials = %+v", c)
	}
	log := w.log.String()
	for _, want := range []string{`msg="credentials handed out"`, "role=reader", "use=env", "uid=0", "session=reader-env"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, c.Credentials.SecretAccessKey.Reveal()) || strings.Contains(log, c.Credentials.SessionToken.Reveal()) {
		t.Error("the secrets are in the log")
	}
	_, err = control.Credentials(t.Context(), w.socket, control.CredentialsRequest{Role: "untrusted", Use: "env"})
	if fault.CodeOf(err) != fault.STSDenied || !strings.Contains(w.log.String(), `msg="credentials refused"`) {
		t.Errorf("Credentials = %v\nlog:\n%s", err, w.log)
	}
}
