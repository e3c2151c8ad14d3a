// Package iam is the simulated AWS account of the laboratory: users, roles, sessions, and the policies that say what
// each may do. STS and S3 of the laboratory ask it who a caller is and whether a call is allowed.
//
// It refuses production use by its nature: the account lives in memory only and ends with the process, its keys are
// made up (ASIA and AKIA prefixes, because SDKs tell temporary from lasting keys by them, followed by LAB), and no
// AWS endpoint knows them. It knows the part of the policy language that is written into documents by hand; what it
// does not know is refused when the document is loaded, never ignored when it is evaluated.
//
// It is separate from the services because both must agree: one place decides that a temporary key without its token
// does not exist.
package iam

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"taskrole/internal/arn"
	"taskrole/internal/secret"
)

// Account holds everything. It is safe for concurrent use.
type Account struct {
	id  arn.AccountID
	now func() time.Time

	mu       sync.Mutex // guards what follows
	creds    map[string]*Credential
	roles    map[string]*Role // by name
	longest  time.Duration    // of new sessions; 0: no limit
	sessions int              // made so far
	limits   []Document       // service control policies; none: no limits
}

// NewAccount makes an empty account. now is its clock; nil means the real one.
func NewAccount(id arn.AccountID, now func() time.Time) *Account {
	if now == nil {
		now = time.Now
	}
	return &Account{id: id, now: now, creds: map[string]*Credential{}, roles: map[string]*Role{}}
}

// ID is the account's number.
func (a *Account) ID() arn.AccountID { return a.id }

// Now is the time in the account, UTC.
func (a *Account) Now() time.Time { return a.now().UTC() }

// Credential is one access key and whom it belongs to. It is not changed after it was made.
type Credential struct {
	AccessKeyID string
	Secret      secret.Value
	Token       secret.Value // empty for a user's lasting key
	Expires     time.Time    // zero for a user's lasting key; whole seconds, UTC
	Principal   *Principal
}

// User is an IAM user with one lasting access key.
type User struct {
	Name        string
	AccessKeyID string // made up when empty
	Secret      secret.Value
	Policies    []Document
}

// Role is an IAM role.
type Role struct {
	Name       string
	Path       string        // "/" when empty
	MaxSession time.Duration // longest session AssumeRole gives; one hour when 0
	Trust      Document
	Policies   []Document

	id  string
	arn arn.Role
}

// ARN of the role.
func (r *Role) ARN() string { return r.arn.String() }

// AddUser adds a user and returns its key.
func (a *Account) AddUser(u User) (*Credential, error) {
	if u.Name == "" {
		return nil, errors.New("a user needs a name")
	}
	if u.AccessKeyID == "" {
		u.AccessKeyID = "AKIALAB" + random(13)
	}
	if u.Secret.Empty() {
		u.Secret = newSecret()
	}
	p := &Principal{
		Account: a.id, ARN: fmt.Sprintf("arn:aws:iam::%s:user/%s", a.id, u.Name),
		UserID: "AIDA" + random(16), UserName: u.Name, policies: u.Policies, home: a,
	}
	c := &Credential{AccessKeyID: u.AccessKeyID, Secret: u.Secret, Principal: p}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.creds[c.AccessKeyID] != nil {
		return nil, fmt.Errorf("access key %s exists already", c.AccessKeyID)
	}
	a.creds[c.AccessKeyID] = c
	return c, nil
}

// AddRole adds a role and returns it as the account holds it; it must not be changed afterwards.
func (a *Account) AddRole(r Role) (*Role, error) {
	var err error
	if r.arn, err = arn.NewRole("aws", a.id, r.Path, r.Name); err != nil {
		return nil, err
	}
	r.Path, r.id = r.arn.Path, "AROA"+random(16)
	if r.MaxSession == 0 {
		r.MaxSession = time.Hour
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roles[r.Name] != nil { // AWS too: names are unique in the account, whatever the path
		return nil, fmt.Errorf("role %s exists already", r.Name)
	}
	a.roles[r.Name] = &r
	return &r, nil
}

// Role finds a role by its ARN; nil when there is none.
func (a *Account) Role(roleARN string) *Role {
	want, err := arn.ParseRole(roleARN)
	if err != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.roles[want.Name]; r != nil && r.arn == want {
		return r
	}
	return nil
}

// SessionOptions are what a caller of AssumeRole may say about a session.
type SessionOptions struct {
	Name       string
	Life       time.Duration
	Policies   []Document        // session policies: they narrow
	Tags       map[string]string // session tags, inherited ones included
	Transitive []string          // keys of the tags that the next session inherits
}

// NewSession makes credentials of a role. It checks nothing: that is STS's work.
func (a *Account) NewSession(r *Role, o SessionOptions) *Credential {
	p := &Principal{
		Account: a.id, ARN: fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", a.id, r.Name, o.Name),
		UserID: r.id + ":" + o.Name, RoleARN: r.ARN(), policies: r.Policies, session: o.Policies,
		Tags: o.Tags, Transitive: o.Transitive, home: a,
	}
	c := &Credential{
		AccessKeyID: "ASIALAB" + random(13), Secret: newSecret(),
		Token: secret.New("TASKROLELAB//" + base64.StdEncoding.EncodeToString(randomBytes(192))), Principal: p,
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.longest > 0 {
		o.Life = min(o.Life, a.longest)
	}
	c.Expires = a.Now().Add(o.Life).Truncate(time.Second)
	a.creds[c.AccessKeyID] = c
	a.sweep()
	return c
}

// LimitSessions makes all sessions from now on at most d long, shorter than AWS would ever make them, so that a test
// sees several in a minute; 0 takes the limit away.
func (a *Account) LimitSessions(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.longest = max(d, 0)
}

// Restrict sets the service control policies of the account from now on: nobody in it may do what they do not allow,
// or deny. Without any there are no limits.
func (a *Account) Restrict(policies ...Document) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limits = policies
}

func (a *Account) restrictions() []Document {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limits
}

// Expire ends one session now and says whether there was one. A user's lasting key does not expire.
func (a *Account) Expire(accessKeyID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.expire(a.creds[accessKeyID])
}

// ExpireAll ends all sessions now and returns how many there were.
func (a *Account) ExpireAll() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.creds {
		if a.expire(c) {
			n++
		}
	}
	return n
}

func (a *Account) expire(c *Credential) bool {
	if c == nil || c.Expires.IsZero() || !a.Now().Before(c.Expires) {
		return false
	}
	ended := *c // whoever holds the old one keeps reading it without a lock
	ended.Expires = a.Now()
	a.creds[c.AccessKeyID] = &ended
	return true
}

// sweep forgets sessions that ended long ago, now and then, so that a laboratory that runs for days does not grow.
// AWS forgets too: a very old token is called invalid instead of expired.
func (a *Account) sweep() {
	const every, remembered = 1024, 24 * time.Hour
	if a.sessions++; a.sessions%every != 0 {
		return
	}
	limit := a.Now().Add(-remembered)
	maps.DeleteFunc(a.creds, func(_ string, c *Credential) bool { return !c.Expires.IsZero() && c.Expires.Before(limit) })
}

// What Resolve refuses.
var (
	ErrUnknownKey = errors.New("the access key is not known, or is temporary and came without its token")
	ErrBadToken   = errors.New("the session token does not belong to the access key")
	ErrExpired    = errors.New("the session has expired")
)

// Resolve finds the credential behind an access key and session token, in AWS's order: a temporary key without its
// token does not exist; a wrong token, and any token with a lasting key, is invalid; then the expiry counts.
func (a *Account) Resolve(accessKeyID, token string) (*Credential, error) {
	a.mu.Lock()
	c := a.creds[accessKeyID]
	a.mu.Unlock()
	switch {
	case c == nil && token != "":
		return nil, ErrBadToken
	case c == nil, token == "" && !c.Token.Empty():
		return nil, ErrUnknownKey
	case c.Token.Reveal() != token:
		return nil, ErrBadToken
	case !c.Expires.IsZero() && !a.Now().Before(c.Expires):
		return nil, ErrExpired
	}
	return c, nil
}

func newSecret() secret.Value {
	return secret.New(base64.StdEncoding.EncodeToString(randomBytes(30)))
}

// random is n characters of the alphabet of AWS's ids.
func random(n int) string {
	return base32.StdEncoding.EncodeToString(randomBytes(n))[:n]
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, by its documentation
	return b
}
