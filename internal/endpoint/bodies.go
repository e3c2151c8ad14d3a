package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
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

// form is how credentials are written.
type form int

const (
	formContainer form = iota
	formIMDS
	forms
)

// rendered are the documents of one set of credentials. Each is kept from the first time somebody asks for it: most
// containers ask for one of the two only, and a host may have very many. All hold the same, so the dialects always agree.
type rendered struct {
	of    secret.Credentials
	since time.Time
	kept  [forms]atomic.Pointer[document]
}

// bodies marshals credentials once for each rotation.
type bodies struct {
	credentials func() (secret.Credentials, error)
	last        atomic.Pointer[rendered]
}

// current returns what writes the current credentials, or why there are none. An error never comes with documents, since
// some SDKs take keys out of whatever they get (rule R5).
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
	r := &rendered{of: c, since: time.Now()}
	b.last.Store(r) // two requests at the moment of a rotation both store the same
	return r, nil
}

// document is the credentials in a form.
func (r *rendered) document(f form) (document, *fault.Error) {
	if d := r.kept[f].Load(); d != nil {
		return *d, nil
	}
	all, err := r.write()
	if err != nil {
		return document{}, fault.As(err)
	}
	d := documentOf(bytes.Clone(all[f])) // without the room that the encoder took
	r.kept[f].Store(&d)                  // two requests at once both store the same
	return d, nil
}

// write makes the credentials in each form, of which none may be too large: whether they can be written is the same for all
// dialects, so that none of them has what another refuses.
func (r *rendered) write() (all [forms][]byte, err error) {
	c := r.of
	expires := c.Expires.UTC().Format(stamp)
	key, token := c.SecretAccessKey.Reveal(), c.SessionToken.Reveal()
	container, err1 := json.Marshal(containerDocument{
		RoleArn: c.RoleARN, AccessKeyID: c.AccessKeyID, SecretAccessKey: key, Token: token, Expiration: expires, AccountID: c.AccountID,
	})
	imds, err2 := json.MarshalIndent(imdsDocument{
		Code: "Success", LastUpdated: r.since.UTC().Format(stamp), Type: "AWS-HMAC",
		AccessKeyID: c.AccessKeyID, SecretAccessKey: key, Token: token, Expiration: expires, AccountID: c.AccountID,
	}, "", "  ")
	if err := errors.Join(err1, err2); err != nil {
		return all, fmt.Errorf("marshal credentials: %w", err)
	}
	if most := max(len(container), len(imds)); most >= maxBody {
		return all, fault.New(fault.Internal, fmt.Sprintf("the credentials take %d bytes, more than some SDKs read", most),
			"use fewer session tags or a shorter session policy")
	}
	all[formContainer], all[formIMDS] = container, imds
	return all, nil
}
