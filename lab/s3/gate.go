package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"taskrole/lab/iam"
	"taskrole/lab/sigv4"
)

const (
	wrongSignature = "The request signature we calculated does not match the signature you provided. Check your key and signing method."
	unknownKey     = "The AWS Access Key Id you provided does not exist in our records."
)

// gate lets a request through when all of it is in order: operation, claim, scope, clock, key and token, signature,
// policies, body, in this order, which is AWS's.
func (c *call) gate(ctx context.Context) error {
	op, operr := parseOperation(c.r)
	c.op, c.event.Action = op, op.action
	if c.o.Before != nil {
		if e := c.o.Before(ctx, op.action); e != nil {
			return e
		}
	}
	a, secret, hash, err := c.authenticate()
	if err != nil {
		return err
	}
	if operr != nil {
		return operr
	}
	need, err := op.permissions(c.r)
	if err != nil {
		return err
	}
	for _, p := range need {
		if err := c.authorize(p); err != nil {
			return err
		}
	}
	return c.checkBody(a, secret, hash)
}

// authenticate finds out who is calling. It returns the verified claim, the secret that belongs to it and the hash
// the client signed for the body.
func (c *call) authenticate() (a *sigv4.Auth, secret, hash string, err error) {
	if a, err = sigv4.Parse(c.r); err != nil {
		return nil, "", "", c.refusal(a, err)
	}
	c.event.AccessKeyID = a.AccessKeyID[:min(len(a.AccessKeyID), 128)]
	if err := c.checkScope(a); err != nil {
		return nil, "", "", err
	}
	if err := a.CheckTime(c.now); err != nil {
		return nil, "", "", c.refusal(a, err)
	}
	cred, err := c.resolve(a)
	if err != nil {
		return nil, "", "", err
	}
	switch hash = c.r.Header.Get("X-Amz-Content-Sha256"); {
	case hash == "" && !a.Presigned:
		return nil, "", "", invalid("Missing required header for this request: x-amz-content-sha256")
	case hash == "":
		if hash = c.r.URL.Query().Get("X-Amz-Content-Sha256"); hash == "" { // JavaScript's presigner sends it
			hash = sigv4.UnsignedPayload
		}
	}
	if err := a.Verify(c.r, cred.Secret.Reveal(), hash); err != nil {
		return nil, "", "", c.refusal(a, err)
	}
	c.who, c.event.Principal = cred.Principal, cred.Principal.ARN
	return a, cred.Secret.Reveal(), hash, nil
}

func (c *call) checkScope(a *sigv4.Auth) error {
	var text string
	var details []detail
	switch {
	case a.Service != "s3":
		text = fmt.Sprintf("incorrect service %q. This endpoint belongs to %q.", a.Service, "s3")
	case a.Region != c.o.Region:
		text = fmt.Sprintf("the region '%s' is wrong; expecting '%s'", a.Region, c.o.Region)
		details = []detail{{"Region", c.o.Region}}
	case a.Presigned && !a.ExpiresGiven:
		return fail(http.StatusBadRequest, "AuthorizationQueryParametersError", "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
	default:
		return nil
	}
	if a.Presigned {
		return fail(http.StatusBadRequest, "AuthorizationQueryParametersError", "Error parsing the X-Amz-Credential parameter; "+text, details...)
	}
	return fail(http.StatusBadRequest, "AuthorizationHeaderMalformed", "The authorization header is malformed; "+text, details...)
}

func (c *call) resolve(a *sigv4.Auth) (*iam.Credential, error) {
	cred, err := c.o.Account.Resolve(a.AccessKeyID, a.Token)
	switch {
	case errors.Is(err, iam.ErrUnknownKey):
		return nil, fail(http.StatusForbidden, "InvalidAccessKeyId", unknownKey, detail{"AWSAccessKeyId", a.AccessKeyID})
	case errors.Is(err, iam.ErrBadToken):
		return nil, fail(http.StatusBadRequest, "InvalidToken", "The provided token is malformed or otherwise invalid.", detail{"Token-0", a.Token})
	case errors.Is(err, iam.ErrExpired):
		return nil, fail(http.StatusBadRequest, "ExpiredToken", "The provided token has expired.", detail{"Token-0", a.Token})
	}
	return cred, err
}

// refusal puts a signature's fault into S3's words.
func (c *call) refusal(a *sigv4.Auth, err error) error {
	var e *sigv4.Error
	if !errors.As(err, &e) {
		return err
	}
	serverTime := detail{"ServerTime", c.now.Format(time.RFC3339)}
	switch e.Kind {
	case sigv4.NoAuth:
		return accessDenied("Access Denied")
	case sigv4.Mismatch:
		return fail(http.StatusForbidden, "SignatureDoesNotMatch", wrongSignature, detail{"AWSAccessKeyId", a.AccessKeyID},
			detail{"StringToSign", e.StringToSign}, detail{"SignatureProvided", a.Signature},
			detail{"StringToSignBytes", hexBytes(e.StringToSign)}, detail{"CanonicalRequest", e.CanonicalRequest},
			detail{"CanonicalRequestBytes", hexBytes(e.CanonicalRequest)})
	case sigv4.Skewed:
		return fail(http.StatusForbidden, "RequestTimeTooSkewed", e.Detail, detail{"RequestTime", a.Time.Format(sigv4.TimeFormat)},
			serverTime, detail{"MaxAllowedSkewMilliseconds", strconv.FormatInt(sigv4.MaxSkew.Milliseconds(), 10)})
	case sigv4.ExpiredURL:
		return accessDenied(e.Detail, detail{"X-Amz-Expires", strconv.Itoa(int(a.Expires / time.Second))},
			detail{"Expires", a.Time.Add(a.Expires).Format(time.RFC3339)}, serverTime)
	case sigv4.NotYetValid, sigv4.MissingDate:
		return accessDenied(e.Detail)
	case sigv4.HeadersNotSigned:
		return accessDenied("There were headers present in the request which were not signed", detail{"HeadersNotSigned", e.Detail})
	case sigv4.OldSignature:
		return invalid(e.Detail)
	case sigv4.NotAuth:
		return fail(http.StatusBadRequest, "InvalidArgument", e.Detail, detail{"ArgumentName", "Authorization"},
			detail{"ArgumentValue", c.r.Header.Get("Authorization")})
	case sigv4.QueryParams:
		return fail(http.StatusBadRequest, "AuthorizationQueryParametersError", e.Detail)
	}
	return fail(http.StatusBadRequest, "AuthorizationHeaderMalformed", "The authorization header is malformed; "+e.Detail)
}

// authorize asks the caller's policies for one permission.
func (c *call) authorize(p permission) error {
	q := c.r.URL.Query()
	ctx := iam.Context{"aws:securetransport": {strconv.FormatBool(c.r.TLS != nil)}}
	if host, _, err := net.SplitHostPort(c.r.RemoteAddr); err == nil {
		ctx["aws:sourceip"] = []string{host}
	}
	for _, name := range []string{"prefix", "delimiter"} {
		if q.Has(name) {
			ctx["s3:"+name] = []string{q.Get(name)}
		}
	}
	err := c.who.Authorize(iam.Request{Action: p.action, Resource: p.resource, Context: ctx})
	var d *iam.DeniedError
	if !errors.As(err, &d) {
		return err
	}
	return accessDenied(fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %q %s", d.Principal, d.Action, d.Resource, d.Reason))
}
