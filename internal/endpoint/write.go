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

// write sends one whole answer: with a length (rule R16), and for HEAD without the body.
func write(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) //nolint:gosec // what is untrusted in a body is quoted for its type; an error means the client is gone
	}
}

// The content types. Go's SDK reads an error only if it is application/json exactly, without a charset (rule R13).
const (
	typeJSON = "application/json"
	typeText = "text/plain"
	typeHTML = "text/html"
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
	write(w, r, f.Status(), typeJSON, body)
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
	write(w, r, status, typeHTML, []byte(body))
}

// checkHost refuses requests that were meant for somebody else: a web page that makes a browser in the container ask
// this address under a name of its own (DNS rebinding) sends that name. Every SDK sends the literal address or
// what its environment says. names are allowed besides literal loopback addresses and localhost, with any port.
func checkHost(host string, names []string) *fault.Error {
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
