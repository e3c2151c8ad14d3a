package cli_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"taskrole/internal/cli"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
	"taskrole/internal/testkit"
)

// lender is an agent with credentials for the role reader.
func lender(t *testing.T) fakeAgent {
	t.Helper()
	return fakeAgent{credentials: func(r control.CredentialsRequest) (control.CredentialsReply, error) {
		if r.Use != "env" {
			t.Errorf("asked for use %q", r.Use)
		}
		if r.Role != "reader" {
			return control.CredentialsReply{}, fault.New(fault.RoleUnknown, "no role is called that", "did you mean reader?")
		}
		return control.CredentialsReply{Session: "reader-env", Region: "eu-west-1", Credentials: secret.Credentials{
			AccessKeyID: "ASIAX", SecretAccessKey: secret.New("the-key"), SessionToken: secret.New("the-token"), Expires: time.Now().Add(time.Hour),
		}}, nil
	}}
}

func TestEnvIntoAPipeIsTheAnswerAndNothingElse(t *testing.T) {
	config := lender(t).start(t)
	r := run(t, nil, "env", "reader", "--format", "docker", "--config", config)
	for _, want := range []string{
		"AWS_ACCESS_KEY_ID=ASIAX\n", "AWS_SECRET_ACCESS_KEY=the-key\n", "AWS_SESSION_TOKEN=the-token\n", "AWS_SECURITY_TOKEN=the-token\n",
		"AWS_REGION=eu-west-1\n", "AWS_DEFAULT_REGION=eu-west-1\n",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in %q", want, r.stdout)
		}
	}
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit %d, stderr %q", r.code, r.stderr)
	}
	if r := run(t, nil, "env", "reader", "--config", config); !strings.HasPrefix(r.stdout, "export AWS_ACCESS_KEY_ID='ASIAX'\n") {
		t.Errorf("without a format: %q", r.stdout)
	}
}

func TestEnvOfAnUnknownRoleOffersTheNearest(t *testing.T) {
	r := run(t, nil, "env", "raeder", "--config", lender(t).start(t))
	want := "taskrole: error: no role is called that [role-unknown]\ntaskrole: hint: did you mean reader?\n"
	if r.code != fault.ExitFault || r.stdout != "" || r.stderr != want {
		t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
}

func TestEnvOnATerminalSaysHowLongTheyLive(t *testing.T) {
	stdout := testkit.Terminal(t)
	var stderr strings.Builder
	code := cli.Run(t.Context(), cli.Options{Args: []string{"env", "reader", "--config", lender(t).start(t)}, Stdout: stdout, Stderr: &stderr, Describe: describe})
	if code != 0 || !strings.HasPrefix(stderr.String(), "taskrole: note: these credentials end in 1h0m0s, at ") {
		t.Errorf("exit %d, stderr %q", code, stderr.String())
	}
}

func TestEnvOfTheInstanceNeedsNoAgent(t *testing.T) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	document := fmt.Sprintf(`{"Code":"Success","AccessKeyId":"ASIAHOST","SecretAccessKey":"the-key","Token":"the-token","Expiration":%q}`,
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut && r.Header.Get("X-Aws-Ec2-Metadata-Token") != "t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(map[string]string{"/latest/api/token": "t", roles: "host", roles + "host": document, "/latest/meta-data/placement/region": "eu-west-1"}[r.URL.Path]))
	}))
	defer service.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.URL) // nothing link-local is asked
	r := run(t, nil, "env", "--instance", "--format", "process")
	if r.code != 0 || !strings.Contains(r.stdout, `"AccessKeyId": "ASIAHOST"`) || r.stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if r := run(t, nil, "env", "--instance"); r.code != fault.ExitFault || r.stdout != "" || !strings.Contains(r.stderr, "[host-identity-missing]\ntaskrole: hint: ") {
		t.Errorf("disabled: exit %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
	}
}
