package endpoint

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// stamp is how times are written: RFC 3339, UTC, Z, whole seconds (rule R7).
const stamp = "2006-01-02T15:04:05Z"

// maxBody is the least of what clients read (rule R16: awslabs/aws-c-auth stops at 10,000 bytes).
const maxBody = 10_000

// containerDocument is the container endpoint's answer; every member is always there (rule R6).
type containerDocument struct {
	RoleArn         string
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	Expiration      string
	AccountID       string `json:"AccountId,omitempty"`
}

// imdsDocument is the instance metadata service's answer; every member is always there (rule R5).
type imdsDocument struct {
	Code            string
	LastUpdated     string
	Type            string
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	Expiration      string
	AccountID       string `json:"AccountId,omitempty"`
}

// rendered are both documents of one set of credentials. Both hold the same, so the dialects always agree.
type rendered struct {
	of              secret.Credentials
	since           time.Time
	container, imds document
}

// bodies marshals credentials once for each rotation.
type bodies struct {
	credentials func() (secret.Credentials, error)
	last        atomic.Pointer[rendered]
}

// current returns the documents of the current credentials, or why there are none. An error never comes with
// documents, since some SDKs take keys out of whatever they get (rule R5).
func (b *bodies) current() (*rendered, *fault.Error) {
	c, err := b.credentials()
	if err != nil {
		return nil, fault.As(err)
	}
	if !c.Complete() || !time.Now().Before(c.Expires) {
		return nil, fault.New(fault.CredentialsNotReady, "the credentials are incomplete or have expired", "try again in a moment")
	}
	// Comparing is cheap: the secrets are pointers, and stay the same until the next rotation.
	if r := b.last.Load(); r != nil && r.of == c {
		return r, nil
	}
	r, err := render(c)
	if err != nil {
		return nil, fault.As(err)
	}
	b.last.Store(r) // two requests at the moment of a rotation both store the same
	return r, nil
}

func render(c secret.Credentials) (*rendered, error) {
	now := time.Now()
	expires := c.Expires.UTC().Format(stamp)
	key, token := c.SecretAccessKey.Reveal(), c.SessionToken.Reveal()
	container, err := json.Marshal(containerDocument{
		RoleArn: c.RoleARN, AccessKeyID: c.AccessKeyID, SecretAccessKey: key, Token: token, Expiration: expires, AccountID: c.AccountID,
	})
	if err != nil {
		return nil, fmt.Errorf("marshal credentials: %w", err)
	}
	imds, err := json.MarshalIndent(imdsDocument{
		Code: "Success", LastUpdated: now.UTC().Format(stamp), Type: "AWS-HMAC",
		AccessKeyID: c.AccessKeyID, SecretAccessKey: key, Token: token, Expiration: expires, AccountID: c.AccountID,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshal credentials: %w", err)
	}
	if max(len(container), len(imds)) >= maxBody {
		return nil, fault.New(fault.Internal, fmt.Sprintf("the credentials take %d bytes, more than some SDKs read", max(len(container), len(imds))),
			"use fewer session tags or a shorter session policy")
	}
	return &rendered{of: c, since: now, container: documentOf(container), imds: documentOf(imds)}, nil
}
