package cloud_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/lab/cloud"
)

func TestFaultsThroughTheControlEndpoint(t *testing.T) {
	l := newLab(t, cloud.Options{})
	creds, err := l.instance().Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	identity := func() error { _, err := l.sts(static(creds)).GetCallerIdentity(t.Context(), nil); return err }
	buckets := func() error { _, err := l.s3(static(creds)).ListBuckets(t.Context(), nil); return err }
	metadata := func() error { _, err := l.instance().Retrieve(t.Context()); return err }
	for _, tc := range []struct {
		fault string
		call  func() error
		want  string // in the error
	}{
		{`{"service":"sts","kind":"throttle","count":2}`, identity, "Throttling: Rate exceeded"},
		{`{"service":"sts","kind":"error","count":2,"action":"GetCallerIdentity"}`, identity, "InternalFailure"},
		{`{"service":"sts","kind":"outage","count":2}`, identity, "EOF"},
		{`{"service":"s3","kind":"throttle","count":2}`, buckets, "SlowDown: Please reduce your request rate."},
		{`{"service":"s3","kind":"error","count":2}`, buckets, "InternalError"},
		{`{"service":"s3","kind":"outage","count":2}`, buckets, "EOF"},
		{`{"service":"imds","kind":"throttle","count":2,"action":"GetCredentials"}`, metadata, "429"},
		{`{"service":"imds","kind":"error","count":2,"action":"GetCredentials"}`, metadata, "500"},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			if status, body := l.controlCall(t, "PUT", "/faults", tc.fault); status != 200 {
				t.Fatal(status, body)
			}
			for range 2 {
				if err := tc.call(); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v, want %s", err, tc.want)
				}
			}
			if err := tc.call(); err != nil {
				t.Errorf("after the count: %v", err)
			}
			if left := l.Faults(); len(left) != 0 {
				t.Errorf("left over: %+v", left)
			}
		})
	}
}

// Go's HTTP client tries a GET again that was cut on a connection it had used before, so nothing is counted here.
func TestMetadataOutage(t *testing.T) {
	l := newLab(t, cloud.Options{})
	if err := l.SetFault(cloud.Fault{Service: "imds", Kind: cloud.Outage}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.instance().Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("%v, want EOF", err)
	}
	for _, e := range l.Calls().Last {
		if e.Status != 0 {
			t.Errorf("answered: %+v", e)
		}
	}
}

func TestLatencyAndFaultAddUpUntilCleared(t *testing.T) {
	l := newLab(t, cloud.Options{})
	for _, f := range []cloud.Fault{
		{Service: "s3", Kind: cloud.Throttle},
		{Service: "s3", Kind: cloud.Latency, Delay: cloud.Duration(50 * time.Millisecond)},
		{Service: "sts", Kind: cloud.Outage},
	} {
		if err := l.SetFault(f); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	_, err := l.s3(l.instance()).ListBuckets(t.Context(), nil)
	if code(err) != "SlowDown" || time.Since(start) < 50*time.Millisecond {
		t.Errorf("%v after %v, want SlowDown after 50ms", err, time.Since(start))
	}
	l.ClearFaults("s3")
	if _, err := l.s3(l.instance()).ListBuckets(t.Context(), nil); err != nil {
		t.Errorf("cleared: %v", err)
	}
	if want := []cloud.Fault{{Service: "sts", Kind: cloud.Outage}}; !cmp.Equal(want, l.Faults()) {
		t.Errorf("Faults = %+v, want %+v", l.Faults(), want)
	}
	if status, body := l.controlCall(t, "DELETE", "/faults", ""); status != 200 || body != "[]\n" {
		t.Errorf("DELETE /faults: %d %s", status, body)
	}
}

func TestControlRefusesNonsense(t *testing.T) {
	l := newLab(t, cloud.Options{})
	for _, tc := range [][3]string{
		{"PUT", "/faults", `{"service":"ec2","kind":"outage"}`},
		{"PUT", "/faults", `{"service":"s3","kind":"flood"}`},
		{"PUT", "/faults", `{"service":"s3","kind":"outage","count":-1}`},
		{"PUT", "/faults", `{"service":"s3","kind":"latency"}`},
		{"PUT", "/faults", `{"service":"s3","kind":"latency","delay":"2m"}`},
		{"PUT", "/faults", `{"service":"s3","kind":"outage","delay":"1s"}`},
		{"PUT", "/faults", `{"service":"s3","kind":"outage","whatever":1}`},
		{"PUT", "/faults", `{"service":"s3","kind":"latency","delay":"` + strings.Repeat("x", 1<<17) + `"}`},
		{"PUT", "/faults", ``},
		{"PUT", "/imds", `{"hop_limit":0}`},
		{"PUT", "/imds", `{"hop":1}`},
		{"PUT", "/sessions", `{"life":"-1s"}`},
		{"POST", "/expire", `{"key":"x"}`},
	} {
		if status, body := l.controlCall(t, tc[0], tc[1], tc[2]); status != 400 || !strings.HasPrefix(body, `{"error":"`) {
			t.Errorf("%s %s %.60s: %d %s", tc[0], tc[1], tc[2], status, body)
		}
	}
	if len(l.Faults()) != 0 {
		t.Errorf("Faults = %+v, want none", l.Faults())
	}
}

func TestControlChangesTheMetadataService(t *testing.T) {
	l := newLab(t, cloud.Options{})
	status, body := l.controlCall(t, "PUT", "/imds", `{"hop_limit":2,"tokens_required":true}`)
	if want := `{"hop_limit":2,"tokens_required":true,"enabled":true}` + "\n"; status != 200 || body != want {
		t.Errorf("%d %s, want %s", status, body, want)
	}
	if _, err := l.instance().Retrieve(t.Context()); err != nil {
		t.Error(err)
	}
	if status, body := l.controlCall(t, "PUT", "/imds", `{"enabled":false}`); status != 200 || !strings.Contains(body, `"hop_limit":2`) {
		t.Errorf("%d %s", status, body)
	}
	if _, err := l.instance().Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("disabled: %v, want 403", err)
	}
}

func TestControlExpiresSessions(t *testing.T) {
	l := newLab(t, cloud.Options{})
	first, err1 := l.assume(cloud.TaskReader).Retrieve(t.Context())
	second, err2 := l.assume(cloud.TaskReader).Retrieve(t.Context())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if _, body := l.controlCall(t, "POST", "/expire", `{"access_key":"`+first.AccessKeyID+`"}`); body != `{"expired":1}`+"\n" {
		t.Errorf("one: %s", body)
	}
	if _, err := l.s3(static(first)).ListBuckets(t.Context(), nil); code(err) != "ExpiredToken" {
		t.Errorf("first: %v, want ExpiredToken", err)
	}
	if _, err := l.s3(static(second)).ListBuckets(t.Context(), nil); err != nil {
		t.Errorf("second: %v", err)
	}
	if _, body := l.controlCall(t, "POST", "/expire", ""); body != `{"expired":2}`+"\n" { // the instance's too
		t.Errorf("all: %s", body)
	}
	if _, err := l.sts(static(second)).GetCallerIdentity(t.Context(), nil); code(err) != "ExpiredToken" {
		t.Errorf("second: %v, want ExpiredToken", err)
	}
}

func TestControlShortensSessions(t *testing.T) {
	l := newLab(t, cloud.Options{})
	if status, body := l.controlCall(t, "PUT", "/sessions", `{"life":"5s"}`); status != 200 || body != `{"life":"5s"}`+"\n" {
		t.Fatalf("%d %s", status, body)
	}
	c, err := l.assume(cloud.TaskReader).Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(c.Expires); left > 5*time.Second {
		t.Errorf("a session lives %v, want at most 5s", left)
	}
}

func TestCallsAreRemembered(t *testing.T) {
	l := newLab(t, cloud.Options{TokensRequired: true})
	if _, err := l.s3(l.assume(cloud.TaskReader)).ListBuckets(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	_, body := l.controlCall(t, "GET", "/calls", "")
	var calls cloud.Calls
	if err := json.Unmarshal([]byte(body), &calls); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]int{
		"imds": {"PutToken": 1, "ListRole": 1, "GetCredentials": 1}, "sts": {"AssumeRole": 1}, "s3": {"ListAllMyBuckets": 1},
	}
	if diff := cmp.Diff(want, calls.Counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	last := calls.Last[len(calls.Last)-1]
	if len(calls.Last) != 5 || last.Status != 200 || !strings.HasPrefix(last.Principal, "arn:aws:sts::123456789012:assumed-role/task-s3-reader/") {
		t.Errorf("last of %d: %+v", len(calls.Last), last)
	}
	l.controlCall(t, "DELETE", "/calls", "")
	if got := l.Calls(); len(got.Counts) != 0 || len(got.Last) != 0 {
		t.Errorf("after the reset: %+v", got)
	}
}

func TestInstanceCredentialsAreSharedAndRenewed(t *testing.T) {
	now := time.Now()
	l := newLab(t, cloud.Options{SessionLife: time.Hour, Now: func() time.Time { return now }})
	retrieve := func() string {
		c, err := l.instance().Retrieve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c.AccessKeyID
	}
	first := retrieve()
	if retrieve() != first {
		t.Error("two answers, two sessions: EC2 gives everybody the same")
	}
	now = now.Add(50 * time.Minute)
	if retrieve() != first {
		t.Error("renewed too early")
	}
	now = now.Add(6 * time.Minute)
	if retrieve() == first {
		t.Error("not renewed in the last minutes")
	}
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	l := newLab(t, cloud.Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				client := l.s3(l.assume(cloud.TaskWriter))
				_, err := client.ListBuckets(t.Context(), nil)
				if c := code(err); err != nil && c != "ExpiredToken" && c != "SlowDown" && !strings.Contains(err.Error(), "ExpiredToken") {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		_ = l.SetFault(cloud.Fault{Service: "s3", Kind: cloud.Throttle, Count: 1})
		_ = l.SetHopLimit(1 + i%2)
		l.SetTokensRequired(i%2 == 0)
		l.ExpireAll()
		_, _ = l.Calls(), l.Faults()
	}
	wg.Wait()
}
