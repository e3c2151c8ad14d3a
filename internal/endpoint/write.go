package endpoint

import (
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"taskrole/internal/fault"
)

// document is a body and what its Content-Length says, made together once.
type document struct {
	body   []byte
	length []string
}

func documentOf(body []byte) document {
	return document{body: body, length: []string{strconv.Itoa(len(body))}}
}

// write sends one whole answer: with a length (rule R16), and for HEAD without the body. The values are put into the
// header as they are; net/http only reads them.
func write(w http.ResponseWriter, r *http.Request, status int, contentType []string, d document) {
	h := w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = d.length
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(d.body) // what is untrusted in it is quoted for its type; an error means the client is gone
	}
}

// The content types. Go's SDK reads an error only if it is application/json exactly, without a charset (rule R13).
var (
	typeJSON = []string{"application/json"}
	typeText = []string{"text/plain"}
	typeHTML = []string{"text/html"}
)

// writeJSON sends a fault as the container endpoint does. Each member is there twice because JavaScript's SDK reads
// capital letters and the others do not; Go's reads either, so both must be equal. Most people see only the message,
// so the way out is part of it.
func writeJSON(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	note(w, f)
	message := sentence(f)
	body, err := json.Marshal(map[string]string{"code": string(f.Code), "message": message, "Code": string(f.Code), "Message": message})
	if err != nil { // strings always marshal
		body = []byte(`{}`)
	}
	write(w, r, f.Status(), typeJSON, documentOf(body))
}

// note tells the log what was answered.
func note(w http.ResponseWriter, f *fault.Error) {
	if rec, ok := w.(*recorder); ok {
		rec.code = f.Code
	}
}

func sentence(f *fault.Error) string {
	if f.Hint == "" {
		return f.What
	}
	return f.What + ": " + f.Hint
}

// writeHTML sends a fault as the instance metadata service does, with our sentence below the title.
func writeHTML(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	note(w, f)
	writeHTMLStatus(w, r, f.Status(), sentence(f)+" ["+string(f.Code)+"]")
}

// writeHTMLStatus sends an answer that belongs to the dialect and is no fault of ours, such as the 401 that makes a
// client fetch a token.
func writeHTMLStatus(w http.ResponseWriter, r *http.Request, status int, why string) {
	title := fmt.Sprintf("%d - %s", status, http.StatusText(status))
	body := `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>` + title + `</title>
 </head>
 <body>
  <h1>` + title + `</h1>
  <p>` + html.EscapeString(why) + `</p>
 </body>
</html>
`
	write(w, r, status, typeHTML, documentOf([]byte(body)))
}

// checkHost refuses requests that were meant for somebody else: a web page that makes a browser in the container ask
// this address under a name of its own (DNS rebinding) sends that name. Every SDK sends the literal address or
// what its environment says. names are allowed besides literal loopback addresses and localhost, with any port.
func checkHost(host string, names []string) *fault.Error {
	if slices.Contains(names, host) { // what nearly every client sends
		return nil
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "" || name == "localhost" || slices.Contains(names, name) { // HTTP/1.0 clients send none
		return nil
	}
	if a, err := netip.ParseAddr(name); err == nil && a.Zone() == "" && a.Unmap().IsLoopback() {
		return nil
	}
	return fault.New(fault.RequestInvalid, fmt.Sprintf("the request's Host header is %s", cut(host)),
		"ask for the address itself, as the SDKs do")
}

// cut quotes untrusted text, and not much of it.
func cut(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// tidyPath collapses repeated slashes and takes the last one off: clients ask with and without them (rule R3).
func tidyPath(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return strings.TrimSuffix(p, "/")
}
