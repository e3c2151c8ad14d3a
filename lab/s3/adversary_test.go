package s3_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"net/http"
	"strings"
	"testing"
)

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// setBody changes the body after the headers were signed; the length is not a signed header then.
func setBody(r *http.Request, body string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), 300
}

// The store reads a path, a query and a copy source in its own way. Whatever the session may not do must be refused
// in every spelling that the store would understand as just that.
func TestNoSpellingGetsPastThePolicy(t *testing.T) {
	for _, c := range []call{
		{target: "//shut/secret"},
		{target: "///shut/secret"},
		{target: "/%2Fshut/secret"},
		{target: "/open/../shut/secret"},
		{target: "/shut/secret?uploadId="},
		{target: "/shut/secret?versionId=null"},
		{target: "/open/hello.txt?versions"},
		{target: "/open/hello.txt?uploads"},
		{target: "/open/hello.txt?tagging"},
		{target: "/open/hello.txt?uploadId=1&tagging"},
		{target: "/?versions"},
		{target: "/shut?location"},
		{target: "/shut?list-type=2"},
		{method: "POST", target: "/open", body: "x"},
		{method: "POST", target: "/open/mine/x", body: "x"},
		{method: "PUT", target: "/open/mine/x?acl", body: "x"},
		{method: "PUT", target: "/shut/x?uploadId=", body: "x"},
		{method: "PUT", target: "//shut/x", body: "x"},
		{method: "DELETE", target: "/shut?location"},
		{method: "DELETE", target: "//shut/secret"},
		{method: "OPTIONS", target: "/shut/secret"},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "/shut/secret"}},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "shut/secret"}},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "//shut/secret"}},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "/shut/secret?versionId=null"}},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "/shut/%73ecret"}},
		{method: "PUT", target: "/open/mine/x", header: map[string]string{"X-Amz-Copy-Source": "%2Fshut/secret"}},
	} {
		t.Run(c.method+" "+c.target+" "+c.header["X-Amz-Copy-Source"], func(t *testing.T) {
			w := newWorld(t)
			rec := w.do(t, c)
			if rec.Code < 400 || strings.Contains(rec.Body.String(), "<Key>secret</Key>") || rec.Body.String() == "secret" {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
			if got := w.do(t, call{target: "/shut/secret", cred: w.admin}); got.Code != http.StatusOK || got.Body.String() != "secret" {
				t.Errorf("the secret afterwards: %d %q", got.Code, got.Body)
			}
			if got := w.do(t, call{target: "/open/mine/x", cred: w.admin}); got.Code != http.StatusNotFound {
				t.Errorf("copied: %d %q", got.Code, got.Body)
			}
		})
	}
}

// What the gate decodes and what the store decodes must be the same object also where a plus is in its name.
func TestCopySourceMeansTheAuthorizedObject(t *testing.T) {
	w := newWorld(t)
	rec := w.do(t, call{method: "PUT", target: "/open/mine/copy", header: map[string]string{"X-Amz-Copy-Source": "/open/mine/a%20b%2Bc"}})
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if got := w.do(t, call{target: "/open/mine/copy"}); got.Body.String() != "mine" {
		t.Errorf("copied %q, want mine", got.Body)
	}
}
