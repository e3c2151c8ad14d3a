package sigv4

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CheckTime compares the claim's time with the server's. A presigned URL may be MaxSkew early and not a second late.
func (a *Auth) CheckTime(now time.Time) error {
	switch {
	case a.Presigned && a.Time.Sub(now) > MaxSkew:
		return refuse(NotYetValid, "Request is not yet valid")
	case a.Presigned && now.After(a.Time.Add(a.Expires)):
		return refuse(ExpiredURL, "Request has expired")
	case !a.Presigned && now.Sub(a.Time).Abs() > MaxSkew:
		return refuse(Skewed, "The difference between the request time and the current time is too large.")
	}
	return nil
}

// Verify recomputes the signature over r. payloadHash is the last line of the canonical request: S3 takes it from
// the request and must then hash the body itself, other services hash the body before they call. The comparison
// takes the same time wherever the signatures differ.
func (a *Auth) Verify(r *http.Request, secret, payloadHash string) error {
	query, err := canonicalQuery(r.URL.RawQuery, a.Presigned)
	if err != nil {
		return refuse(QueryParams, "the query string cannot be decoded")
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n" + a.canonicalPath(r.URL.Path) + "\n" + query + "\n")
	for _, h := range a.SignedHeaders {
		b.WriteString(h + ":" + headerValue(r, h) + "\n")
	}
	b.WriteString("\n" + strings.Join(a.SignedHeaders, ";") + "\n" + payloadHash)
	text := Algorithm + "\n" + a.Time.Format(TimeFormat) + "\n" + a.Scope() + "\n" + sum(b.String())
	want := hex.EncodeToString(mac(a.signingKey(secret), text))
	if subtle.ConstantTimeCompare([]byte(want), []byte(a.Signature)) != 1 {
		return &Error{Kind: Mismatch, Detail: "the signature does not match", StringToSign: text, CanonicalRequest: b.String()}
	}
	return nil
}

func (a *Auth) signingKey(secret string) []byte {
	return mac(mac(mac(mac([]byte("AWS4"+secret), a.Date), a.Region), a.Service), terminal)
}

// canonicalPath encodes the decoded path as AWS does: once for S3, twice for every other service.
func (a *Auth) canonicalPath(path string) string {
	if path == "" {
		return "/"
	}
	path = escape(path, true)
	if a.Service != "s3" {
		path = escape(path, true)
	}
	return path
}

// escape is AWS's URI encoding: all but A-Za-z0-9-._~ (and, in paths, "/") becomes %XX.
func escape(s string, path bool) string {
	const upperHex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if letter || strings.IndexByte("-._~", c) >= 0 || path && c == '/' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// canonicalQuery decodes, encodes and sorts. It splits on & only: url.ParseQuery drops what holds a semicolon.
func canonicalQuery(raw string, presigned bool) (string, error) {
	type param struct{ key, value string }
	var params []param
	for p := range strings.SplitSeq(raw, "&") {
		if p == "" {
			continue
		}
		k, v, _ := strings.Cut(p, "=")
		k, err := url.QueryUnescape(k)
		if err != nil {
			return "", err
		}
		if v, err = url.QueryUnescape(v); err != nil {
			return "", err
		}
		if presigned && k == "X-Amz-Signature" {
			continue
		}
		params = append(params, param{escape(k, false), escape(v, false)})
	}
	slices.SortFunc(params, func(a, b param) int {
		return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.value, b.value))
	})
	var b strings.Builder
	for i, p := range params {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.key + "=" + p.value)
	}
	return b.String(), nil
}

// headerValue is the canonical value: spaces collapsed, duplicates joined. net/http keeps three headers elsewhere.
func headerValue(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return strconv.FormatInt(r.ContentLength, 10)
	case "transfer-encoding":
		return strings.Join(r.TransferEncoding, ",")
	}
	var values []string
	for _, v := range r.Header.Values(name) {
		values = append(values, strings.Join(strings.Fields(v), " "))
	}
	return strings.Join(values, ",")
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}
