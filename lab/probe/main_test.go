package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/lab/probe/report"
)

// fakeAWS answers as STS and S3 do, on one port, and counts what it was asked.
func fakeAWS(t *testing.T, status int) (url string, asked *[]string) {
	t.Helper()
	asked = &[]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method)
		if status != http.StatusOK {
			w.WriteHeader(status)
			w.Write([]byte(`<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>`))
			return
		}
		if r.Method == http.MethodPost {
			w.Write([]byte(`<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:x</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`))
			return
		}
		w.Write([]byte(`<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Buckets><Bucket><Name>one</Name></Bucket></Buckets></ListAllMyBucketsResult>`))
	}))
	t.Cleanup(s.Close)
	for k, v := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": s.URL, "AWS_REGION": "eu-west-1", "HOME": t.TempDir(),
		"AWS_PROFILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
	} {
		t.Setenv(k, v)
	}
	return s.URL, asked
}

func identityOf(t *testing.T) (report.Report, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), nil, &out)
	var r report.Report
	if e := json.Unmarshal(out.Bytes(), &r); e != nil {
		t.Fatalf("not one JSON object: %v: %s", e, out.Bytes())
	}
	return r, err
}

func TestIdentityReportsArnAndBuckets(t *testing.T) {
	fakeAWS(t, http.StatusOK)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAX")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	r, err := identityOf(t)
	if err != nil || r.ARN != "arn:x" || !cmp.Equal(r.Buckets, []string{"one"}) || r.Errors != (report.Errors{}) {
		t.Errorf("report %+v, error %v", r, err)
	}
}

func TestIdentityAsksNothingMoreWithoutCredentials(t *testing.T) {
	_, asked := fakeAWS(t, http.StatusOK)
	r, err := identityOf(t)
	if err == nil || r.Errors.Credentials == "" || r.ARN != "" || r.Buckets != nil {
		t.Errorf("report %+v, error %v; want an error of the credentials", r, err)
	}
	if len(*asked) != 0 {
		t.Errorf("asked %v without credentials", *asked)
	}
}

func TestIdentityKeepsTheErrorsOfBothServicesApart(t *testing.T) {
	fakeAWS(t, http.StatusForbidden)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAX")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	r, err := identityOf(t)
	if err == nil || !strings.Contains(r.Errors.S3, "InvalidAccessKeyId") || r.Errors.STS == "" || r.Errors.Credentials != "" {
		t.Errorf("report %+v, error %v", r, err)
	}
}

func TestDoRunsEveryStepAndFailsIfOneDid(t *testing.T) {
	t.Setenv("PROBE_TEST", "x")
	var out bytes.Buffer
	err := run(t.Context(), strings.Fields("do nothing -- env PROBE_TEST ABSENT -- sleep 1ms"), &out)
	if err == nil || !strings.Contains(err.Error(), `unknown step "nothing"`) || out.String() != "PROBE_TEST=x\n" {
		t.Errorf("output %q, error %v", out.String(), err)
	}
	if err := run(t.Context(), []string{"do", "sleep", "1ms", "--"}, &out); err == nil {
		t.Error("an empty step passes")
	}
}

func TestGetPrintsTheAnswerAsItCame(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", r.Method+" "+r.Header.Get("X-Sent"))
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer s.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"get", "-X", "PUT", "-H", "X-Sent: a b", s.URL}, &out); err != nil {
		t.Fatal(err)
	}
	if o := out.String(); !strings.HasPrefix(o, "HTTP/1.1 302 Found\n") || !strings.Contains(o, "X-Got: PUT a b") {
		t.Errorf("output %q", o)
	}
}

func TestServeAnswersUntilTheRunEnds(t *testing.T) {
	s := &servers{}
	defer s.close()
	var out bytes.Buffer
	if err := s.serve(t.Context(), []string{"-listen", "127.0.0.1:0", "-text", "here"}, &out); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimSpace(strings.TrimPrefix(out.String(), "listening on "))
	out.Reset()
	if err := get(t.Context(), []string{"http://" + addr}, &out); err != nil || !strings.Contains(out.String(), "here") {
		t.Errorf("output %q, error %v", out.String(), err)
	}
}
