package sigv4

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	oldSignature = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
	oneMechanism = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"
	queryNeeds   = "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
)

// Limits of presigned URLs: seven days, and what services other than S3 take when nothing is said.
const (
	maxExpires     = 604800
	defaultExpires = 15 * time.Minute
)

// claim is what both forms have in common, still as text.
type claim struct{ credential, signedHeaders, signature, date string }

// Parse reads the claim out of the Authorization header or the query. Its error is always an *Error. It has not
// verified anything, except that the request signs what every request must sign.
func Parse(r *http.Request) (*Auth, error) {
	a := &Auth{}
	c, err := a.read(r)
	if err != nil {
		return nil, err
	}
	if err := a.parseCredential(c.credential); err != nil {
		return nil, err
	}
	at, perr := time.Parse(TimeFormat, c.date)
	if perr != nil {
		return nil, refuse(MissingDate, "AWS authentication requires a valid Date or x-amz-date header")
	}
	if !strings.HasPrefix(c.date, a.Date) {
		return nil, refuse(DateMismatch, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
	}
	a.Time, a.Signature = at, c.signature
	a.SignedHeaders = strings.Split(strings.ToLower(c.signedHeaders), ";")
	slices.Sort(a.SignedHeaders)
	if err := a.checkSigned(r.Header); err != nil {
		return nil, err
	}
	return a, nil
}

// read finds out which mechanism the request uses. It returns *Error and not error so that a nil stays nil.
func (a *Auth) read(r *http.Request) (claim, *Error) {
	headers := r.Header.Values("Authorization")
	q := r.URL.Query()
	presigned := q.Has("X-Amz-Algorithm") || q.Has("X-Amz-Signature")
	v2 := q.Has("AWSAccessKeyId") && q.Has("Signature")
	switch {
	case len(headers) > 1, len(headers) == 1 && (presigned || v2):
		return claim{}, refuse(NotAuth, oneMechanism)
	case len(headers) == 1:
		return a.readHeader(headers[0], r.Header)
	case v2:
		return claim{}, refuse(OldSignature, oldSignature)
	case presigned:
		return a.readQuery(q)
	}
	return claim{}, refuse(NoAuth, "no credentials")
}

func (a *Auth) readHeader(value string, h http.Header) (claim, *Error) {
	var c claim
	algorithm, rest, _ := strings.Cut(value, " ")
	switch algorithm {
	case Algorithm:
	case "AWS":
		return c, refuse(OldSignature, oldSignature)
	default:
		return c, refuse(NotAuth, "Unsupported Authorization Type")
	}
	parts := strings.Split(rest, ",")
	if len(parts) != 3 {
		return c, refuse(Malformed, "the authorization header requires three components: Credential, SignedHeaders, and Signature.")
	}
	into := map[string]*string{"Credential": &c.credential, "SignedHeaders": &c.signedHeaders, "Signature": &c.signature}
	for _, part := range parts {
		part = strings.TrimSpace(part)
		k, v, _ := strings.Cut(part, "=")
		if into[k] == nil || v == "" {
			return c, refuse(Malformed, fmt.Sprintf("the authorization component %q is malformed.", cut(part)))
		}
		*into[k] = v
		delete(into, k) // twice the same is malformed too
	}
	a.Token = h.Get("X-Amz-Security-Token")
	if c.date = h.Get("X-Amz-Date"); c.date == "" {
		if at, err := http.ParseTime(h.Get("Date")); err == nil {
			c.date = at.UTC().Format(TimeFormat)
		}
	}
	return c, nil
}

func (a *Auth) readQuery(q url.Values) (claim, *Error) {
	a.Presigned = true
	if q.Get("X-Amz-Algorithm") != Algorithm {
		return claim{}, refuse(QueryParams, `X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"`)
	}
	c := claim{
		credential: q.Get("X-Amz-Credential"), signedHeaders: q.Get("X-Amz-SignedHeaders"),
		signature: q.Get("X-Amz-Signature"), date: q.Get("X-Amz-Date"),
	}
	if c.credential == "" || c.signedHeaders == "" || c.signature == "" || c.date == "" {
		return claim{}, refuse(QueryParams, queryNeeds)
	}
	a.Token, a.Expires = q.Get("X-Amz-Security-Token"), defaultExpires
	if e := q.Get("X-Amz-Expires"); e != "" {
		n, err := strconv.Atoi(e)
		if err != nil || n < 0 || n > maxExpires {
			return claim{}, refuse(QueryParams, "X-Amz-Expires must be between 0 and 604800 seconds")
		}
		a.Expires, a.ExpiresGiven = time.Duration(n)*time.Second, true
	}
	return c, nil
}

func (a *Auth) parseCredential(s string) error {
	c := strings.Split(s, "/")
	n := len(c)
	var detail string
	switch {
	case n < 5 || c[0] == "":
		detail = `the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`
	case c[n-1] != terminal:
		detail = fmt.Sprintf("incorrect terminal %q. This endpoint uses %q.", cut(c[n-1]), terminal)
	default:
		if _, err := time.Parse(dateFormat, c[n-4]); err == nil {
			// An access key id of another vendor may hold a slash, so the scope is counted from the end.
			a.AccessKeyID, a.Date, a.Region, a.Service = strings.Join(c[:n-4], "/"), c[n-4], c[n-3], c[n-2]
			return nil
		}
		detail = fmt.Sprintf(`incorrect date format %q. This date in the credential must be in the format "yyyyMMdd".`, cut(c[n-4]))
	}
	if a.Presigned {
		return refuse(QueryParams, "Error parsing the X-Amz-Credential parameter; "+detail)
	}
	return refuse(Malformed, detail)
}

// checkSigned demands that the host and every received x-amz-* header are signed. Without the second half, whoever
// holds a presigned PUT could turn it into a copy on the server by adding x-amz-copy-source.
func (a *Auth) checkSigned(h http.Header) error {
	if !slices.Contains(a.SignedHeaders, "host") {
		return refuse(HeadersNotSigned, "host")
	}
	var missing []string
	for name := range h {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(a.SignedHeaders, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return refuse(HeadersNotSigned, strings.Join(missing, ", "))
}

// cut keeps a client's text from filling an error.
func cut(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
