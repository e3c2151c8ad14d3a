package main

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestPrintsWhenItHadTheCredential(t *testing.T) {
	body := `{"AccessKeyId": "ASIAEXAMPLE"}`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	defer s.Close()
	var out strings.Builder
	if err := fetch([]string{s.Listener.Addr().String(), "/"}, &out); err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64); err != nil || n <= 0 {
		t.Errorf("printed %q", out.String())
	}
	body = "{}"
	if err := fetch([]string{s.Listener.Addr().String(), "/"}, &out); err == nil {
		t.Error("an answer without a credential was taken for one")
	}
}
