package endpoint_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
)

func TestVisitsNoteWhoTookCredentials(t *testing.T) {
	visits := new(endpoint.Visits)
	w := newWorld(t, func(o *endpoint.Options) { o.Visits = visits })
	if at, client := visits.Last(); !at.IsZero() || client != "" {
		t.Errorf("before anybody came: %s, %q", at, client)
	}
	w.do(http.MethodGet, ecsURL+"/elsewhere", "User-Agent", "lost")
	w.do(http.MethodPost, credsURL, "User-Agent", "wrong")
	if at, _ := visits.Last(); !at.IsZero() {
		t.Error("who got nothing is noted")
	}
	for url, client := range map[string]string{
		credsURL: "Boto3/1.34 ua/2.0",
		"http://169.254.169.254/latest/meta-data/iam/security-credentials/task-app": "aws-sdk-go-v2/1.30",
	} {
		begin := time.Now()
		if a := w.do(http.MethodGet, url, "User-Agent", client, "X-Aws-Ec2-Metadata-Token", w.token()); a.status != http.StatusOK {
			t.Fatalf("GET %s = %d", url, a.status)
		}
		if at, got := visits.Last(); at.Before(begin) || got != client {
			t.Errorf("%s was noted as %s, %q", client, at, got)
		}
	}
	before, _ := visits.Last()
	w.fail(fault.New(fault.STSDenied, "no", ""))
	w.do(http.MethodGet, credsURL, "User-Agent", "refused")
	if at, client := visits.Last(); !at.Equal(before) || client == "refused" {
		t.Errorf("who was refused is noted: %s, %q", at, client)
	}
}

func TestVisitorsCallThemselvesWhatTheyLike(t *testing.T) {
	for name, want := range map[string]string{
		"a\x1b[2Jb": "a?[2Jb", "\xff\u202e": "??", strings.Repeat("x", 500): strings.Repeat("x", 200), "": "",
	} {
		v := new(endpoint.Visits)
		v.Note(&http.Request{Header: http.Header{"User-Agent": {name}}}, time.Unix(1, 0))
		if _, got := v.Last(); got != want {
			t.Errorf("%q is shown as %q, want %q", name, got, want)
		}
	}
	v := new(endpoint.Visits)
	v.Note(&http.Request{Header: http.Header{}}, time.Unix(1, 0))
	if at, got := v.Last(); at.IsZero() || got != "" {
		t.Errorf("a client without a name: %s, %q", at, got)
	}
}

func TestTheSameVisitorAgainCostsNoMemory(t *testing.T) {
	v, r := new(endpoint.Visits), &http.Request{Header: http.Header{"User-Agent": {strings.Repeat("x", 300)}}}
	if n := testing.AllocsPerRun(100, func() { v.Note(r, time.Unix(1, 0)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
