package sts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"taskrole/lab/iam"
	"taskrole/lab/sigv4"
)

const wrongSignature = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."

// authenticate finds out who is calling, in AWS's order: claim, scope, clock, key and token, signature.
func (c *call) authenticate() error {
	a, err := sigv4.Parse(c.r)
	if err != nil {
		return c.refusal(a, err)
	}
	c.event.AccessKeyID = cut(a.AccessKeyID)
	switch {
	case a.Service != "sts":
		return forbidden("SignatureDoesNotMatch", "Credential should be scoped to correct service: 'sts'. ")
	case slices.Contains(c.o.Disabled, a.Region):
		return forbidden("RegionDisabledException", "STS is not activated in this region for account:"+string(c.o.Account.ID())+
			". Your account administrator can activate STS in this region using the IAM Console.")
	case a.Region != c.o.Region:
		return forbidden("SignatureDoesNotMatch", "Credential should be scoped to a valid region. ")
	}
	if err := a.CheckTime(c.now); err != nil {
		return c.refusal(a, err)
	}
	cred, err := c.o.Account.Resolve(a.AccessKeyID, a.Token)
	switch {
	case errors.Is(err, iam.ErrUnknownKey):
		return forbidden("InvalidClientTokenId", "The security token included in the request is invalid.")
	case errors.Is(err, iam.ErrBadToken): // without the dot, as two logs of AWS show
		return forbidden("InvalidClientTokenId", "The security token included in the request is invalid")
	case errors.Is(err, iam.ErrExpired):
		return forbidden("ExpiredToken", "The security token included in the request is expired")
	case err != nil:
		return err
	}
	digest := sha256.Sum256(c.body)
	if err := a.Verify(c.r, cred.Secret.Reveal(), hex.EncodeToString(digest[:])); err != nil {
		return c.refusal(a, err)
	}
	c.who, c.event.Principal = cred.Principal, cred.Principal.ARN
	return nil
}

// refusal puts a signature's fault into STS's words.
func (c *call) refusal(a *sigv4.Auth, err error) error {
	var e *sigv4.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case sigv4.NoAuth:
		return forbidden("MissingAuthenticationToken", "Request is missing Authentication Token")
	case sigv4.Mismatch:
		return forbidden("SignatureDoesNotMatch", wrongSignature)
	case sigv4.Skewed, sigv4.ExpiredURL, sigv4.NotYetValid:
		at, now := a.Time.Format(sigv4.TimeFormat), c.now.Format(sigv4.TimeFormat)
		if a.Time.After(c.now) {
			return forbidden("SignatureDoesNotMatch", fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + 15 min.)",
				at, c.now.Add(sigv4.MaxSkew).Format(sigv4.TimeFormat), now))
		}
		return forbidden("SignatureDoesNotMatch", fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 15 min.)",
			at, c.now.Add(-sigv4.MaxSkew).Format(sigv4.TimeFormat), now))
	}
	return sender("IncompleteSignature", e.Detail)
}
