package sigv4_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"taskrole/lab/sigv4"
)

var at = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

var creds = aws.Credentials{AccessKeyID: "ASIALABEXAMPLE", SecretAccessKey: exampleSecret, SessionToken: "a/token+with=odd characters"}

func signer(service string) *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = service == "s3"
		o.DisableHeaderHoisting = true
	})
}

func request(tb testing.TB, method, target, body string) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// received is what the server sees of r.
func received(tb testing.TB, r *http.Request) *http.Request {
	tb.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		tb.Fatal(err)
	}
	line, _, _ := strings.Cut(wire.String(), "\r\n")
	target := strings.Split(line, " ")[1]
	got := httptest.NewRequestWithContext(context.Background(), r.Method, target, nil)
	got.Host, got.Header, got.ContentLength = r.URL.Host, r.Header.Clone(), r.ContentLength
	return got
}

// The SDK's own signer is the oracle: what it signs is accepted, and a change anywhere is not.
func TestVerifyAgreesWithTheSDK(t *testing.T) {
	for _, service := range []string{"s3", "sts"} {
		for _, target := range []string{
			"http://lab.test/", "http://lab.test:8080/a/b", "http://lab.test/a%20b/%2B%3D%26c", "http://lab.test/%C3%BC/~x",
			"http://lab.test/?b=2&a=1", "http://lab.test/?a=2&a=1&a", "http://lab.test/?a=b%20c&d=e%2Ff", "http://lab.test/x?list-type=2&prefix=",
		} {
			for _, presigned := range []bool{false, true} {
				name := service + " " + target
				if presigned {
					name += " presigned"
				}
				t.Run(name, func(t *testing.T) {
					r, hash := signed(t, service, target, presigned)
					verify := func(r *http.Request, secret string) error {
						a, err := sigv4.Parse(r)
						if err != nil {
							return err
						}
						if a.Token != creds.SessionToken || a.AccessKeyID != creds.AccessKeyID || a.Service != service || !a.Time.Equal(at) {
							t.Errorf("Parse = %+v", a)
						}
						return a.Verify(r, secret, hash)
					}
					if err := verify(r, exampleSecret); err != nil {
						t.Fatal(err)
					}
					if verify(r, exampleSecret+"x") == nil {
						t.Error("verified with another secret")
					}
					for what, change := range map[string]func(*http.Request){
						"method": func(r *http.Request) { r.Method = http.MethodDelete },
						"path":   func(r *http.Request) { r.URL.Path += "x" },
						"query":  func(r *http.Request) { r.URL.RawQuery += "&x=1" },
						"host":   func(r *http.Request) { r.Host = "other.test" },
					} {
						changed := r.Clone(t.Context())
						change(changed)
						var e *sigv4.Error
						if err := verify(changed, exampleSecret); !errors.As(err, &e) || e.Kind != sigv4.Mismatch {
							t.Errorf("%s changed: %v, want a mismatch", what, err)
						}
					}
				})
			}
		}
	}
}

func signed(tb testing.TB, service, target string, presigned bool) (*http.Request, string) {
	tb.Helper()
	r := request(tb, http.MethodPut, target, "hello")
	if presigned {
		q := r.URL.Query()
		q.Set("X-Amz-Expires", "300")
		r.URL.RawQuery = q.Encode()
		r.ContentLength = 0 // not signed: whoever uses the URL does not know the length yet
		signedURL, header, err := signer(service).PresignHTTP(context.Background(), creds, r, sigv4.UnsignedPayload, service, "us-east-1", at)
		if err != nil {
			tb.Fatal(err)
		}
		r.URL, err = url.Parse(signedURL)
		if err != nil {
			tb.Fatal(err)
		}
		r.Header = header
		return received(tb, r), sigv4.UnsignedPayload
	}
	digest := sha256.Sum256([]byte("hello"))
	hash := hex.EncodeToString(digest[:])
	r.Header.Set("X-Amz-Content-Sha256", hash)
	r.Header.Set("X-Amz-Meta-Spaces", "  a   b ")
	if err := signer(service).SignHTTP(context.Background(), creds, r, hash, service, "us-east-1", at); err != nil {
		tb.Fatal(err)
	}
	return received(tb, r), hash
}

func TestCheckTime(t *testing.T) {
	for _, tc := range []struct {
		name      string
		presigned bool
		now       time.Duration
		want      sigv4.Kind
	}{
		{"header_in_time", false, 0, 0},
		{"header_fifteen_minutes_old", false, 15 * time.Minute, 0},
		{"header_too_old", false, 15*time.Minute + time.Second, sigv4.Skewed},
		{"header_fifteen_minutes_early", false, -15 * time.Minute, 0},
		{"header_too_early", false, -15*time.Minute - time.Second, sigv4.Skewed},
		{"url_in_time", true, 300 * time.Second, 0},
		{"url_over", true, 301 * time.Second, sigv4.ExpiredURL},
		{"url_early", true, -15 * time.Minute, 0},
		{"url_too_early", true, -16 * time.Minute, sigv4.NotYetValid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := signed(t, "s3", "http://lab.test/k", tc.presigned)
			a, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			var e *sigv4.Error
			err = a.CheckTime(at.Add(tc.now))
			if tc.want == 0 && err != nil || tc.want != 0 && (!errors.As(err, &e) || e.Kind != tc.want) {
				t.Errorf("CheckTime = %v, want kind %d", err, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		want   sigv4.Kind
	}{
		{"nothing", func(r *http.Request) { r.Header.Del("Authorization") }, sigv4.NoAuth},
		{"version_2", func(r *http.Request) { r.Header.Set("Authorization", "AWS AKIA:sig") }, sigv4.OldSignature},
		{"version_2_query", func(r *http.Request) {
			r.Header.Del("Authorization")
			r.URL.RawQuery = "AWSAccessKeyId=x&Signature=y&Expires=1"
		}, sigv4.OldSignature},
		{"basic", func(r *http.Request) { r.Header.Set("Authorization", "Basic eA==") }, sigv4.NotAuth},
		{"two_headers", func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }, sigv4.NotAuth},
		{"header_and_query", func(r *http.Request) { r.URL.RawQuery = "X-Amz-Signature=x" }, sigv4.NotAuth},
		{"part_missing", func(r *http.Request) { edit(r, ", Signature=", "; Signature=") }, sigv4.Malformed},
		{"part_twice", func(r *http.Request) { edit(r, "Signature=", "Credential=") }, sigv4.Malformed},
		{"credential_short", func(r *http.Request) { edit(r, "/us-east-1/s3", "") }, sigv4.Malformed},
		{"terminal", func(r *http.Request) { edit(r, "aws4_request", "aws5_request") }, sigv4.Malformed},
		{"scope_date", func(r *http.Request) { edit(r, "/20261122/", "/tomorrow/") }, sigv4.Malformed},
		{"other_day", func(r *http.Request) { edit(r, "/20261122/", "/20261123/") }, sigv4.DateMismatch},
		{"no_date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, sigv4.MissingDate},
		{"host_not_signed", func(r *http.Request) { edit(r, "host;", "") }, sigv4.HeadersNotSigned},
		{"header_added", func(r *http.Request) { r.Header.Set("X-Amz-Copy-Source", "/b/k") }, sigv4.HeadersNotSigned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := signed(t, "s3", "http://lab.test/k", false)
			tc.change(r)
			_, err := sigv4.Parse(r)
			var e *sigv4.Error
			if !errors.As(err, &e) || e.Kind != tc.want {
				t.Errorf("Parse: %v, want kind %d", err, tc.want)
			}
		})
	}
}

func edit(r *http.Request, old, replacement string) {
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, replacement, 1))
}

func TestParsePresignedRefuses(t *testing.T) {
	for name, edit := range map[string][2]string{
		"algorithm":      {"X-Amz-Algorithm", "AWS4-HMAC-SHA1"},
		"no_credential":  {"X-Amz-Credential", ""},
		"bad_credential": {"X-Amz-Credential", "x"},
		"eight_days":     {"X-Amz-Expires", "691200"},
		"negative":       {"X-Amz-Expires", "-1"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := signed(t, "s3", "http://lab.test/k", true)
			q := r.URL.Query()
			q.Set(edit[0], edit[1])
			r.URL.RawQuery = q.Encode()
			_, err := sigv4.Parse(r)
			var e *sigv4.Error
			if !errors.As(err, &e) || e.Kind != sigv4.QueryParams {
				t.Errorf("Parse: %v, want kind %d", err, sigv4.QueryParams)
			}
		})
	}
}

// A request may be dated by Date alone, which the SDK's signer cannot do.
func TestParseTakesTheDateHeader(t *testing.T) {
	r, _ := signed(t, "s3", "http://lab.test/k", false)
	r.Header.Del("X-Amz-Date")
	r.Header.Set("Date", at.Format(http.TimeFormat))
	a, err := sigv4.Parse(r)
	if err != nil || !a.Time.Equal(at) {
		t.Errorf("Parse = %+v, %v, want the time %v", a, err, at)
	}
}

// FuzzParse: whatever comes, there is no crash, an error is an *Error, and what is accepted signs what must be signed.
func FuzzParse(f *testing.F) {
	r, _ := signed(f, "s3", "http://lab.test/k?x=1", false)
	f.Add(r.Header.Get("Authorization"), r.Header.Get("X-Amz-Date"), r.URL.RawQuery, "")
	r, _ = signed(f, "s3", "http://lab.test/k?x=1", true)
	f.Add("", "", r.URL.RawQuery, "")
	f.Add("AWS4-HMAC-SHA256 Credential=////aws4_request,SignedHeaders=;,Signature==", "20261122T100000Z", "%zz;&", "X-Amz-Foo")
	f.Fuzz(func(t *testing.T, authorization, date, query, extra string) {
		r := httptest.NewRequest(http.MethodGet, "http://lab.test/k", nil)
		r.URL.RawQuery = query
		for k, v := range map[string]string{"Authorization": authorization, "X-Amz-Date": date, "X-Amz-" + extra: "1"} {
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		a, err := sigv4.Parse(r)
		var e *sigv4.Error
		if err != nil {
			if !errors.As(err, &e) || e.Kind == 0 || a != nil {
				t.Fatalf("Parse = %v, %v, want a nil claim and an *Error with a kind", a, err)
			}
			return
		}
		all := ";" + strings.Join(a.SignedHeaders, ";") + ";"
		for name := range r.Header {
			if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !strings.Contains(all, ";"+name+";") {
				t.Errorf("accepted although %s is not signed", name)
			}
		}
		if !strings.Contains(all, ";host;") || a.Time.Format("20060102") != a.Date || a.AccessKeyID == "" {
			t.Errorf("accepted: %+v", a)
		}
		if a.Verify(r, "a secret the input cannot know", sigv4.UnsignedPayload) == nil {
			t.Error("a signature without the secret was accepted")
		}
	})
}
