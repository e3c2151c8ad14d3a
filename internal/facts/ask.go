package facts

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"taskrole/internal/address"
	"taskrole/internal/diagnose"
	"taskrole/internal/fault"
	"taskrole/internal/netns"
)

// Time-outs of a question. SDKs wait a second for the metadata service; what takes longer than this is no answer.
const (
	connectLimit = 1200 * time.Millisecond
	answerLimit  = 1500 * time.Millisecond
	maxBody      = 64 << 10
	maxMessage   = 400
)

// The metadata service's own words.
const (
	tokenPath   = "/latest/api/token"
	rolesPath   = "/latest/meta-data/iam/security-credentials/"
	headerToken = "X-aws-ec2-metadata-token"
	headerTTL   = "X-aws-ec2-metadata-token-ttl-seconds"
	shortTTL    = "60"
)

// ask asks all endpoints at the same time.
func (p *Process) ask(ctx context.Context, r *raw, f *diagnose.Facts) {
	if p.net == nil {
		return
	}
	if err := p.mayEnter(); err != nil {
		p.blind("what the endpoints answer in its network namespace", err)
		return
	}
	var wg sync.WaitGroup
	if target, ok := containerURL(r); ok {
		wg.Go(func() {
			header := http.Header{"Accept": {"application/json"}}
			if token, ok := r.authorization(); ok {
				header.Set("Authorization", token)
			}
			a, _ := p.get(ctx, http.MethodGet, target, header)
			a.URL = shown("_FULL_URI", target)
			f.Container = a
		})
	}
	if full, ok := fullURL(r); ok && r.text["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] != "" {
		wg.Go(func() {
			f.Full, _ = p.get(ctx, http.MethodGet, full, http.Header{"Accept": {"application/json"}})
			f.Full.URL = shown("_FULL_URI", full)
		})
	}
	base, ok := metadataURL(r)
	if !ok {
		p.unseen = append(p.unseen, "the metadata service: AWS_EC2_METADATA_SERVICE_ENDPOINT leads elsewhere than to this host or its link, and is not asked")
		wg.Wait()
		return
	}
	f.IMDS.Local = slices.Contains(f.Net.OnLo, hostOf(base))
	var v1, v2 string
	wg.Go(func() {
		var token string
		f.IMDS.Token, token = p.get(ctx, http.MethodPut, base+tokenPath, http.Header{headerTTL: {shortTTL}})
		if f.IMDS.Token.OK() {
			f.IMDS.V2, v2 = p.get(ctx, http.MethodGet, base+rolesPath, http.Header{headerToken: {token}})
		}
	})
	wg.Go(func() { f.IMDS.V1, v1 = p.get(ctx, http.MethodGet, base+rolesPath, nil) })
	wg.Wait()
	for _, x := range []struct {
		a    *diagnose.Answer
		text string
	}{{&f.IMDS.V1, v1}, {&f.IMDS.V2, v2}} {
		if x.a.OK() {
			role, _, _ := strings.Cut(strings.TrimSpace(x.text), "\n")
			f.IMDS.Role = clean(role, maxMessage)
		}
	}
}

// hostOf is the host of a URL that we have made.
func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// mayEnter says why we cannot go into the process's network namespace.
func (p *Process) mayEnter() error {
	_, err := inside(p, func() (struct{}, error) { return struct{}{}, nil })
	if errors.Is(err, unix.EPERM) {
		return unix.EPERM
	}
	return err
}

// inside runs f in the process's network namespace. To go there takes rights, unless it is our own.
func inside[T any](p *Process, f func() (T, error)) (none T, _ error) {
	if p.net == nil {
		return none, unix.EACCES
	}
	own, err := netns.Current()
	if err != nil {
		return none, err
	}
	same, err := own.Same(p.net)
	if err := errors.Join(err, own.Close()); err != nil {
		return none, err
	}
	if same {
		return f()
	}
	return netns.Do(p.net, f)
}

// metadataURL is where the process's SDKs ask the metadata service, if that is an address that can be nobody else's.
func metadataURL(r *raw) (string, bool) {
	base := "http://" + address.IMDS.Addr().String()
	if strings.EqualFold(r.text["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"], "IPv6") {
		base = "http://[" + address.IMDS6.Addr().String() + "]"
	}
	if e := r.text["AWS_EC2_METADATA_SERVICE_ENDPOINT"]; e != "" {
		base = strings.TrimRight(withoutUser(e), "/")
	}
	return literal(base, address.IMDS6.Addr())
}

// literal is a plain URL whose host is an address of the namespace itself or of the link, or the one that may be.
func literal(s string, may netip.Addr) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" {
		return "", false
	}
	if u.Hostname() == "localhost" {
		u.Host = strings.Replace(u.Host, "localhost", "127.0.0.1", 1)
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.String(), err == nil && (a.IsLoopback() || a.IsLinkLocalUnicast() || a == may)
}

// containerURL is what the container variables lead to, if it can be asked without a name server.
func containerURL(r *raw) (string, bool) {
	if rel := r.text["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]; rel != "" {
		return "http://" + address.ECS.Addr().String() + rel, strings.HasPrefix(rel, "/")
	}
	return fullURL(r)
}

func fullURL(r *raw) (string, bool) {
	full := r.text["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
	if full == "" {
		return "", false
	}
	return literal(full, address.PodIdentity6.Addr())
}

// authorization is what the process would send.
func (r *raw) authorization() (string, bool) {
	s := r.token.Reveal()
	if r.text["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] != "" {
		s = r.header.Reveal()
	}
	return s, s != "" && !strings.ContainsAny(s, "\r\n")
}

// get makes one request from inside the namespace. The body is returned for listings and tokens; of a document only
// what members it has is kept.
func (p *Process) get(ctx context.Context, method, target string, header http.Header) (diagnose.Answer, string) {
	a := diagnose.Answer{URL: target}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var connected atomic.Bool
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxBody, Proxy: nil, // never by a proxy: the namespace itself is asked
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			c, err := inside(p, func() (net.Conn, error) {
				d := net.Dialer{Timeout: connectLimit}
				d.SetMultipathTCP(false)
				return d.DialContext(ctx, "tcp", addr) // addr is literal: nothing is resolved on another thread
			})
			connected.Store(err == nil)
			return c, err
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		a.Outcome, a.Why = diagnose.Broken, "the URL cannot be used"
		return a, ""
	}
	maps.Copy(req.Header, header)
	resp, err := transport.RoundTrip(req) // follows no redirects, as SDKs do not
	a.Elapsed = time.Since(begin)
	if err != nil {
		a.Outcome, a.Why = outcome(err, connected.Load())
		return a, ""
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	a.Elapsed = time.Since(begin)
	if err != nil {
		a.Outcome, a.Why = outcome(err, true)
		return a, ""
	}
	a.Outcome, a.Status = diagnose.Answered, resp.StatusCode
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.HasDate, a.Skew = true, time.Until(t).Round(time.Second)
	}
	examine(&a, body)
	if a.OK() {
		return a, string(body)
	}
	return a, ""
}

// outcome puts an error into words that do not depend on the library.
func outcome(err error, connected bool) (diagnose.Outcome, string) {
	timeout := errors.Is(err, context.DeadlineExceeded)
	if e, ok := errors.AsType[net.Error](err); ok {
		timeout = timeout || e.Timeout()
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return diagnose.Refused, "connection refused"
	case errors.Is(err, unix.ENETUNREACH):
		return diagnose.Unreachable, "there is no route"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return diagnose.Unreachable, "there is no address to ask it from"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return diagnose.Unreachable, "the network says that nobody is there, or a firewall refuses it"
	case timeout && connected:
		return diagnose.Silent, "no answer in time"
	case timeout:
		return diagnose.Dropped, "no connection in time"
	default:
		return diagnose.Broken, "the connection is cut, or what answers is not HTTP"
	}
}

// there notes that a member holds a text, and forgets the text.
type there bool

// UnmarshalJSON implements json.Unmarshaler.
func (t *there) UnmarshalJSON(b []byte) error {
	*t = len(b) > len(`""`) && b[0] == '"'
	return nil
}

// masked notes what kind of key id a member holds, and forgets most of it.
type masked struct {
	kind diagnose.KeyKind
	text string
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *masked) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return nil //nolint:nilerr // a number or null there is as good as nothing
	}
	m.kind, m.text = diagnose.Mask(s)
	return nil
}

// codeRE is how taskrole ends a sentence in the metadata service's dialect.
var codeRE = regexp.MustCompile(`\[([a-z0-9-]+)\]</p>`)

// examine looks at a body for what it is.
func examine(a *diagnose.Answer, body []byte) {
	var doc struct {
		AccessKeyID     masked `json:"AccessKeyId"`
		SecretAccessKey there  `json:"SecretAccessKey"`
		Token           there  `json:"Token"`
		Expiration      string `json:"Expiration"`
		RoleARN         string `json:"RoleArn"`
		Code            string `json:"code"` // also "Code"
		Message         string `json:"message"`
	}
	isJSON := json.Unmarshal(body, &doc) == nil
	switch {
	case isJSON && a.OK():
		a.Doc = diagnose.Document{
			JSON: true, Key: doc.AccessKeyID.kind != diagnose.NoKey, Secret: bool(doc.SecretAccessKey), Token: bool(doc.Token),
			Kind: doc.AccessKeyID.kind, Masked: doc.AccessKeyID.text, RoleARN: clean(doc.RoleARN, maxMessage), Code: clean(doc.Code, maxMessage),
		}
		a.Doc.Expires, _ = time.Parse(time.RFC3339, doc.Expiration) // zero: SDKs cannot read it either
	case isJSON:
		a.Code, a.Message = clean(doc.Code, maxMessage), clean(doc.Message, maxMessage)
	default:
		if m := codeRE.FindSubmatch(body); m != nil {
			a.Code = string(m[1])
		} else if !a.OK() && !strings.HasPrefix(strings.TrimSpace(string(body)), "<") {
			a.Message = clean(strings.TrimSpace(string(body)), maxMessage)
		}
	}
	complete := a.Doc.Key && a.Doc.Secret && a.Doc.Token
	a.Taskrole = fault.Known(fault.Code(a.Code)) || complete && strings.Contains(a.URL, address.CredentialsPath(""))
}

// before59 says whether a kernel's release is older than 5.9.
func before59(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, b := number(major), number(minor)
	return a > 0 && (a < 5 || a == 5 && b < 9) //nolint:mnd // the version with sk_lookup
}

// number is the number that s begins with.
func number(s string) int {
	n := 0
	for _, r := range s {
		if r < '0' || r > '9' {
			break
		}
		n = n*10 + int(r-'0') //nolint:mnd // decimal
	}
	return n
}
