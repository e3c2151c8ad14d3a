// Package instancerole takes the credentials of this machine's own instance profile from the EC2 instance metadata
// service, as a user-data script does with curl and jq.
//
// It is a door to one service at a literal address, and refuses to be led elsewhere: no proxy, no redirect, no name to
// resolve, a second to connect and five for everything. It speaks version 2, and version 1 only when told to. What it
// returns is whole or an error. It is apart from hostimds, which can fetch no credentials and must not learn to.
package instancerole

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"taskrole/internal/address"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// Options say how the service is asked. The zero value is version 2 at the usual address.
type Options struct {
	// Getenv reads AWS's own settings of the service, which every SDK knows: AWS_EC2_METADATA_DISABLED,
	// AWS_EC2_METADATA_SERVICE_ENDPOINT and AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE. nil: none is set.
	Getenv func(string) string
	// V1 allows version 1 where the service gives no session token.
	V1 bool
}

const (
	connectLimit = time.Second
	limit        = 5 * time.Second
	maxBody      = 16 << 10
	tokenLife    = "60" // seconds: three questions

	rolesPath  = "/latest/meta-data/iam/security-credentials/"
	regionPath = "/latest/meta-data/placement/region"
	tokenPath  = "/latest/api/token"
)

// form is what an answer may look like. The length is counted apart: a regular expression that counts to a thousand takes
// half a megabyte, in every process that has this package.
type form struct {
	re   *regexp.Regexp
	most int
}

var (
	roleForm   = form{regexp.MustCompile(`^[\w+=,.@-]+$`), 128}
	regionForm = form{regexp.MustCompile(`^[a-z0-9-]+$`), 64}
	tokenForm  = form{regexp.MustCompile(`^[!-~]+$`), 1000}
)

func (f form) matches(s string) bool { return len(s) <= f.most && f.re.MatchString(s) }

// Fetch returns the credentials and the instance's region, which is "" where the service does not tell. Faults are of
// code host-identity-missing.
func Fetch(ctx context.Context, o Options) (secret.Credentials, string, error) {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if strings.EqualFold(o.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return secret.Credentials{}, "", missing(nil, "AWS_EC2_METADATA_DISABLED is true, so the instance metadata service is not asked",
			"unset it for this command")
	}
	base, err := endpoint(o.Getenv)
	if err != nil {
		return secret.Credentials{}, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: false, DialContext: (&net.Dialer{Timeout: connectLimit}).DialContext}
	defer transport.CloseIdleConnections()
	c := &client{base: base, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return c.fetch(ctx, o.V1)
}

// endpoint is where the service is, without a slash at the end.
func endpoint(getenv func(string) string) (string, error) {
	if s := getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); s != "" {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" || u.RawQuery != "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
			return "", fault.New(fault.Usage, "AWS_EC2_METADATA_SERVICE_ENDPOINT is not an address such as http://169.254.169.254", "unset or correct it")
		}
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			return "", fault.New(fault.Usage, "AWS_EC2_METADATA_SERVICE_ENDPOINT names a host, not an address: a name could lead anywhere",
				"give the address itself")
		}
		return "http://" + u.Host, nil
	}
	if strings.EqualFold(getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"), "IPv6") {
		return "http://" + address.IMDS6.String(), nil
	}
	return "http://" + address.IMDS.String(), nil
}

type client struct {
	base  string
	http  *http.Client
	token secret.Value // of the session; empty in version 1
}

// answer is what the service says to one question.
type answer struct {
	status int
	body   string
}

func (c *client) fetch(ctx context.Context, v1 bool) (secret.Credentials, string, error) {
	none := secret.Credentials{}
	if err := c.open(ctx, v1); err != nil {
		return none, "", err
	}
	a, err := c.ask(ctx, http.MethodGet, rolesPath)
	if err != nil {
		return none, "", err
	}
	role, _, _ := strings.Cut(strings.TrimSpace(a.body), "\n")
	role = strings.TrimSpace(role)
	switch {
	case a.status == http.StatusNotFound || a.status == http.StatusOK && role == "":
		return none, "", missing(nil, "this instance has no instance profile, so it has no role", "attach one to the instance")
	case a.status == http.StatusUnauthorized && c.token.Empty():
		return none, "", missing(nil, "this instance's metadata service wants version 2 and gives no session token",
			"in a container, raise the instance's hop limit, or run the command on the host")
	case a.status != http.StatusOK || !roleForm.matches(role):
		return none, "", strange(a, rolesPath)
	}
	a, err = c.ask(ctx, http.MethodGet, rolesPath+role)
	if err != nil {
		return none, "", err
	}
	credentials, err := parse(a, role)
	if err != nil {
		return none, "", err
	}
	region := ""
	if a, err = c.ask(ctx, http.MethodGet, regionPath); err == nil && a.status == http.StatusOK && regionForm.matches(a.body) {
		region = a.body
	}
	return credentials, region, nil
}

// open gets a session token.
func (c *client) open(ctx context.Context, v1 bool) error {
	a, err := c.ask(ctx, http.MethodPut, tokenPath)
	if err == nil && a.status == http.StatusOK && tokenForm.matches(a.body) {
		c.token = secret.New(a.body)
		return nil
	}
	if v1 {
		return nil
	}
	if err != nil {
		return err
	}
	return missing(nil, fmt.Sprintf("the instance metadata service gives no session token (%s)", status(a)),
		"if it speaks version 1 alone, add --imdsv1")
}

func (c *client) ask(ctx context.Context, method, path string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return answer{}, missing(err, "the instance metadata service cannot be asked", "report this")
	}
	if method == http.MethodPut {
		r.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", tokenLife)
	} else if !c.token.Empty() {
		r.Header.Set("X-Aws-Ec2-Metadata-Token", c.token.Reveal())
	}
	response, err := c.http.Do(r)
	if err != nil {
		return answer{}, missing(err, "the instance metadata service does not answer at "+c.base,
			"on EC2 check that it is enabled, and in a container its hop limit; elsewhere there is none: name a role of the agent instead")
	}
	defer response.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err == nil && len(b) > maxBody {
		err = fmt.Errorf("more than %d bytes", maxBody)
	}
	if err != nil {
		return answer{}, missing(err, "the instance metadata service broke off its answer for "+path, "try again")
	}
	return answer{response.StatusCode, string(b)}, nil
}

// parse takes the document apart. An error is what a code other than Success means, whatever else is in it.
func parse(a answer, role string) (secret.Credentials, error) {
	var d struct {
		Code            string
		Message         string
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
	}
	if a.status != http.StatusOK {
		return secret.Credentials{}, strange(a, rolesPath+role)
	}
	if err := json.Unmarshal([]byte(a.body), &d); err != nil {
		return secret.Credentials{}, missing(errors.New("the credentials are no JSON"), // the decoder's error may quote them
			"the instance metadata service's credentials cannot be read", "try again; if it stays, something else answers at its address")
	}
	c := secret.Credentials{
		AccessKeyID: d.AccessKeyID, SecretAccessKey: secret.New(d.SecretAccessKey), SessionToken: secret.New(d.Token), Expires: d.Expiration.UTC(),
	}
	if d.Code != "Success" {
		return secret.Credentials{}, missing(nil, fmt.Sprintf("the instance metadata service has no credentials of the role %s: %.40q", role, d.Code),
			"look at the role's trust policy, which must name ec2.amazonaws.com, and at the instance profile")
	}
	if !c.Complete() {
		return secret.Credentials{}, missing(nil, "the instance metadata service gave credentials that are not complete", "try again")
	}
	return c, nil
}

func strange(a answer, path string) error {
	return missing(nil, fmt.Sprintf("the instance metadata service answers %s with %s", path, status(a)),
		"check that nothing else answers at its address")
}

func status(a answer) string { return fmt.Sprintf("HTTP status %d", a.status) }

func missing(err error, what, hint string) error {
	return fault.Wrap(err, fault.SourceUnavailable, what, hint)
}
