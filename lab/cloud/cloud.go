// Package cloud puts the laboratory's services together to one small AWS account: an EC2 instance's metadata service,
// STS and S3 over the same users, roles and sessions, with what the demonstration needs already in it.
//
// Everything real AWS would refuse it refuses, and some things can be made worse while it runs: sessions can be
// ended, calls throttled, delayed, failed or cut off, from Go or through the control endpoint.
//
// It opens no listener, makes no namespace and dials nobody: whoever wants to reach it serves its handlers. It keeps
// nothing on disk. It is a laboratory and refuses to be more: there is no way to give it a lasting account, the keys
// it makes say LAB, and they are worth nothing at AWS.
package cloud

import (
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"sync"
	"time"

	"taskrole/lab/iam"
	"taskrole/lab/imds"
	"taskrole/lab/s3"
	"taskrole/lab/sts"
)

// What the account holds from the start.
const (
	AccountID    = "123456789012"
	InstanceID   = "i-0123456789abcdef0"
	InstanceRole = "ec2-instance-role"
	ExternalID   = "taskrole-demo" // what task-external wants to hear
	Reports      = "taskrole-demo-reports"
	Uploads      = "taskrole-demo-uploads"
)

// The task roles. The instance may assume those that begin with "task-".
const (
	TaskReader    = "task-s3-reader" // lists buckets, and lists and reads objects
	TaskWriter    = "task-s3-writer" // lists buckets, and writes into Uploads
	TaskExternal  = "task-external"  // like the reader, but asks for ExternalID
	TaskUntrusted = "task-untrusted" // trusts nobody but EC2, so that AssumeRole is denied
)

// RoleARN is the ARN of a role of the account.
func RoleARN(name string) string { return "arn:aws:iam::" + AccountID + ":role/" + name }

// DisabledRegion is an opt-in region that the account has not activated STS in.
const DisabledRegion = "me-south-1"

const (
	defaultRegion = "us-east-1"
	defaultLife   = 6 * time.Hour // of the instance role's credentials, as on EC2
)

// Options of a Cloud; the zero value is a usable one.
type Options struct {
	Region         string           // us-east-1 when empty
	HopLimit       int              // of the metadata service's tokens; 0 is 1, EC2's default
	TokensRequired bool             // no IMDSv1
	SessionLife    time.Duration    // of the instance role's credentials; six hours when 0
	Logger         *slog.Logger     // nil: nothing is logged
	Now            func() time.Time // clock of the whole account; nil is the real one
}

// Cloud is the account and its services. It is safe for concurrent use.
type Cloud struct {
	o       Options
	account *iam.Account
	sts     *sts.Server
	s3      *s3.Server
	imds    *imds.Server
	faults  *faults
	trail   *trail

	mu       sync.Mutex // guards instance
	role     *iam.Role
	instance *iam.Credential // the instance role's current session
}

// New makes the account.
func New(o Options) (*Cloud, error) {
	if o.Region == "" {
		o.Region = defaultRegion
	}
	if o.SessionLife == 0 {
		o.SessionLife = defaultLife
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cloud{o: o, account: iam.NewAccount(AccountID, o.Now), faults: &faults{}, trail: &trail{counts: map[string]map[string]int{}}}
	c.sts = sts.New(sts.Options{Account: c.account, Region: o.Region, Disabled: []string{DisabledRegion}, Before: c.beforeSTS, After: c.trail.add, Logger: o.Logger})
	c.s3 = s3.New(s3.Options{Account: c.account, Region: o.Region, Before: c.beforeS3, After: c.trail.add, Logger: o.Logger})
	var err error
	c.imds, err = imds.New(imds.Options{
		AccountID: AccountID, Region: o.Region, InstanceID: InstanceID, PrivateIP: "10.0.0.10", RoleName: InstanceRole,
		Credentials: c.instanceCredentials, HopLimit: o.HopLimit, TokensRequired: o.TokensRequired, Now: o.Now, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return c, errors.Join(c.addRoles(), c.seed())
}

// Account is the IAM side, for tests that need more roles or users.
func (c *Cloud) Account() *iam.Account { return c.account }

// Region is the one region there is.
func (c *Cloud) Region() string { return c.o.Region }

// Services is STS and S3 on one port, so that one AWS_ENDPOINT_URL serves for both: a form posted to /, or a query
// on / that names an Action, is STS; everything else is S3.
func (c *Cloud) Services() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isSTS(r) {
			c.sts.ServeHTTP(w, r)
		} else {
			c.s3.ServeHTTP(w, r)
		}
	})
}

func isSTS(r *http.Request) bool {
	if r.URL.Path != "/" {
		return false
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method == http.MethodPost && kind == "application/x-www-form-urlencoded" || r.URL.Query().Has("Action")
}

// MetadataServer is the metadata service as a server whose token answers carry the hop limit. It must be served on a
// listener in a namespace of its own; the caller closes it.
func (c *Cloud) MetadataServer() *http.Server { return c.imds.HTTPServer(c.metadata()) }

// SetHopLimit changes the metadata service's hop limit; it must be 1 to 64.
func (c *Cloud) SetHopLimit(n int) error { return c.imds.SetHopLimit(n) }

// SetTokensRequired turns IMDSv1 off and on.
func (c *Cloud) SetTokensRequired(required bool) { c.imds.SetTokensRequired(required) }

// SetMetadataEnabled turns the whole metadata service off (403 to everything) and on.
func (c *Cloud) SetMetadataEnabled(enabled bool) { c.imds.SetEnabled(enabled) }

// SetInstanceProfile attaches the instance role to the instance, or takes it away.
func (c *Cloud) SetInstanceProfile(attached bool) { c.imds.SetRole(attached) }

// ExpireAll ends all sessions now, the instance role's too, and returns how many there were. The metadata service
// gives out new credentials when it is asked next.
func (c *Cloud) ExpireAll() int { return c.account.ExpireAll() }

// Expire ends the session of one access key and says whether there was one.
func (c *Cloud) Expire(accessKeyID string) bool { return c.account.Expire(accessKeyID) }

// LimitSessions makes sessions from now on end after d at the latest; 0 takes the limit away. The metadata service
// gives out new credentials when it is asked next.
func (c *Cloud) LimitSessions(d time.Duration) {
	c.account.LimitSessions(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instance = nil
}

// Calls is the audit trail so far.
func (c *Cloud) Calls() Calls { return c.trail.calls() }

// ResetCalls empties the audit trail.
func (c *Cloud) ResetCalls() { c.trail.reset() }

// instanceCredentials are the same for everybody who asks, as on EC2, and new ones in the last part of their life.
func (c *Cloud) instanceCredentials() (imds.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	current, err := c.current()
	if err != nil {
		return imds.Credentials{}, err
	}
	return imds.Credentials{
		AccessKeyID: current.AccessKeyID, SecretAccessKey: current.Secret.Reveal(), Token: current.Token.Reveal(), Expires: current.Expires,
	}, nil
}

func (c *Cloud) current() (*iam.Credential, error) {
	if c.role == nil {
		return nil, io.ErrUnexpectedEOF // New failed
	}
	if c.instance != nil {
		_, err := c.account.Resolve(c.instance.AccessKeyID, c.instance.Token.Reveal())
		if err == nil && c.instance.Expires.Sub(c.account.Now()) > c.o.SessionLife/12 {
			return c.instance, nil
		}
	}
	c.instance = c.account.NewSession(c.role, iam.SessionOptions{Name: InstanceID, Life: c.o.SessionLife})
	return c.instance, nil
}
