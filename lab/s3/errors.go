package s3

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
)

// Error is an answer that says no, in AWS's codes and words.
type Error struct {
	Status        int
	Code, Message string

	details []detail
}

// detail is an element of the error document between Message and RequestId.
type detail struct{ name, value string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Throttled is the answer to too many calls.
func Throttled() *Error {
	return fail(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
}

// Internal is the answer of a service that is unwell.
func Internal() *Error {
	return fail(http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
}

func fail(status int, code, message string, details ...detail) *Error {
	return &Error{Status: status, Code: code, Message: message, details: details}
}

func invalid(message string, details ...detail) *Error {
	return fail(http.StatusBadRequest, "InvalidRequest", message, details...)
}

func accessDenied(message string, details ...detail) *Error {
	return fail(http.StatusForbidden, "AccessDenied", message, details...)
}

// write sends the document: one line after the XML declaration. The connection ends, since the body of a refused
// upload was perhaps not read.
func (e *Error) write(w http.ResponseWriter, r *http.Request) {
	id, host := newIDs()
	h := w.Header()
	for _, stale := range []string{"Content-Length", "Etag", "Last-Modified", "Accept-Ranges"} {
		h.Del(stale) // of the store's answer, when that was hidden
	}
	h.Set("x-amz-request-id", id)
	h.Set("x-amz-id-2", host)
	h.Set("Content-Type", "application/xml")
	h.Set("Connection", "close")
	w.WriteHeader(e.Status)
	if r.Method == http.MethodHead {
		return
	}
	all := append([]detail{{"Code", e.Code}, {"Message", e.Message}}, e.details...)
	all = append(all, detail{"RequestId", id}, detail{"HostId", host})
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>")
	for _, d := range all {
		b.WriteString("<" + d.name + ">" + escape(d.value) + "</" + d.name + ">")
	}
	b.WriteString("</Error>")
	_, _ = w.Write(b.Bytes())
}

// newIDs makes the two ids of a request, in the lengths S3's have.
func newIDs() (request, host string) {
	var b [64]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return strings.ToUpper(hex.EncodeToString(b[:8])), base64.StdEncoding.EncodeToString(b[8:])
}

// escape writes text as S3 does: line feeds stay, and quotes have their names.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return strings.NewReplacer("&#xA;", "\n", "&#34;", "&quot;", "&#39;", "&apos;").Replace(b.String())
}

// hexBytes is how S3 shows what it signed, byte by byte.
func hexBytes(s string) string { return fmt.Sprintf("% x", s) }
