package doctor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/doctor"
	"taskrole/internal/fault"
)

const (
	hidden = "wJalrXUtnFEMI-not-a-secret-key"
	keyID  = "ASIAEXAMPLE00001234"
)

// settings is a configuration with an agent and an engine that are not there.
func settings(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := "socket: /nowhere/agent.sock\nengines: {docker: 'unix:///nowhere/docker.sock'}\nroles:\n" +
		"  app: {arn: 'arn:aws:iam::123456789012:role/app', region: eu-west-1, allow: [{image: good}]}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ask runs the doctor and returns the codes of the findings and the source of botocore's credentials.
func ask(t *testing.T, q doctor.Query) (codes []string, source string) {
	t.Helper()
	q.JSON, q.ConfigPath = true, settings(t)
	var out bytes.Buffer
	err := doctor.Run(t.Context(), q, &out)
	if code := fault.CodeOf(err); code != "" && code != fault.DoctorFindings {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), hidden) || strings.Contains(out.String(), keyID) {
		t.Errorf("a secret is in the report: %s", out.String())
	}
	var r doctor.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		codes = append(codes, string(f.Code))
	}
	for _, c := range r.Chains {
		if c.SDK == "botocore" {
			source = string(c.Source)
		}
	}
	return codes, source
}

// TestBeforeItStarts: docker run's arguments are judged without starting anything.
func TestBeforeItStarts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("credentials", "[default]\naws_access_key_id="+keyID+"\naws_secret_access_key="+hidden+"\naws_session_token="+hidden+"\n")
	vars := write("vars", "# keys\nAWS_ACCESS_KEY_ID="+keyID+"\nAWS_SECRET_ACCESS_KEY="+hidden+"\n\nAWS_REGION=eu-west-1\nAWS_DEFAULT_REGION=eu-west-1\n")
	newline := write("token", hidden+"\n")
	t.Setenv("AWS_SESSION_TOKEN", hidden)
	regions := []string{"-e", "AWS_REGION=eu-west-1", "--env=AWS_DEFAULT_REGION=eu-west-1"}
	for name, c := range map[string]struct {
		args   string
		want   []string
		source string
	}{
		"token forgotten":     {"--rm --env-file " + vars, []string{"session-token-missing"}, "environment"},
		"token passed on":     {"--rm --env-file " + vars + " -e AWS_SESSION_TOKEN", nil, "environment"},
		"taken back":          {"--env-file " + vars + " -e AWS_ACCESS_KEY_ID= --network none", []string{"credentials-partial"}, "nowhere"},
		"no network":          {"--network none", []string{"imds-unreachable"}, "nowhere"},
		"bridge":              {"-it", nil, "nowhere"},
		"mounted":             {"-v " + dir + ":/root/.aws:ro --net=none", nil, "file"},
		"mounted elsewhere":   {"-e HOME=/h --mount type=bind,src=" + dir + ",dst=/h/.aws --net=none", nil, "file"},
		"another user's home": {"-u 1000 -v " + dir + ":/root/.aws --net=none", []string{"imds-unreachable"}, "nowhere"},
		"line break": {
			"-v " + newline + ":/token -e AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1/ -e AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/token",
			[]string{"token-file-newline"},
			"nowhere",
		},
		"variable alone": {"-e TASKROLE=app", []string{"agent-down"}, "nowhere"},
		"unknown role":   {"--device taskrole/role=nope", []string{"agent-down", "role-refused"}, "nowhere"},
		"keys over the role": {
			"--device taskrole/role=app --env-file " + vars + " -e AWS_SESSION_TOKEN", []string{"agent-down", "keys-shadow-role"}, "environment",
		},
	} {
		args := append(strings.Fields(c.args), regions...)
		codes, source := ask(t, doctor.Query{Image: "good", Args: args})
		if diff := cmp.Diff(c.want, codes); diff != "" || source != c.source {
			t.Errorf("%s: credentials from %q, want %q\n%s", name, source, c.source, diff)
		}
	}
	if codes, _ := ask(t, doctor.Query{Image: "bad", Args: []string{"--runtime=taskrole", "-e", "TASKROLE=app"}}); !cmp.Equal(codes, []string{"agent-down", "role-refused"}) {
		t.Errorf("an image that the role does not allow: %v", codes)
	}
}

func TestWordsThatAreWrong(t *testing.T) {
	err := doctor.Run(t.Context(), doctor.Query{SDKs: []string{"cobol"}, ConfigPath: settings(t)}, &bytes.Buffer{})
	if fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "botocore") {
		t.Errorf("an SDK that nobody knows: %v", err)
	}
	err = doctor.Run(t.Context(), doctor.Query{Container: "web", ConfigPath: settings(t)}, &bytes.Buffer{})
	if fault.CodeOf(err) != fault.EngineUnreachable {
		t.Errorf("a container without an engine: %v", err)
	}
}

// TestItIsBounded: an end of the caller's time is an end of the doctor's.
func TestItIsBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	_ = doctor.Run(ctx, doctor.Query{Image: "good", ConfigPath: settings(t)}, &bytes.Buffer{})
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
}
