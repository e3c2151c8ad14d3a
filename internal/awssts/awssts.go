// Package awssts is the door to AWS STS: it assumes roles with the host's own identity, which it finds as every AWS
// SDK does (environment, files, web identity, container endpoint, instance metadata).
//
// It is one of two packages of the agent that link the AWS SDK (hostimds is the other), and one of two that handle the
// text of secrets. What AWS
// answers becomes a fault with AWS's own message in the sentence, because that sentence is what the engine shows when
// a container does not start. It keeps no credentials of containers; the broker does.
//
// Role chaining: when the host's identity is itself an assumed role, as on every EC2 instance, STS refuses a session
// of more than one hour instead of shortening it. The client then asks for one hour.
package awssts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

const (
	connectLimit = 2 * time.Second
	// callLimit is for one question to STS with everything it needs: the host's own credentials, retries, pauses.
	callLimit = 8 * time.Second
	attempts  = 3
	// chainedLimit is the longest session STS gives to who is a role session already ("Using IAM roles", role
	// chaining, in the IAM user guide).
	chainedLimit = time.Hour
)

// Options say where STS is. The zero value is AWS itself, in the region the environment names.
type Options struct {
	Region   string // region of the STS endpoint where a grant names none; "" means the environment's, or the partition's first
	Endpoint string // URL of the STS endpoint; "" means AWS's own of the region
}

// Client calls STS. It is safe for concurrent use.
type Client struct {
	sts  *sts.Client
	host aws.CredentialsProvider

	mu      sync.Mutex // guards what follows
	chained *bool      // whether the host's identity is a role session; nil until STS was asked
}

// New prepares a client; it calls nobody. The fault is host-identity-missing if the host's AWS configuration cannot be
// read.
func New(ctx context.Context, o Options) (*Client, error) {
	transport := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.Timeout = connectLimit })
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(transport),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(r *retry.StandardOptions) {
				r.MaxAttempts = attempts
				r.MaxBackoff = time.Second
				// The broker caps calls. The SDK's own budget would refuse calls for minutes after an outage.
				r.RateLimiter = ratelimit.None
			})
		}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fault.Wrap(err, fault.SourceUnavailable, "this host's AWS configuration cannot be read: "+tidy(err.Error()), hintHost)
	}
	client := sts.NewFromConfig(cfg, func(so *sts.Options) {
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	return &Client{sts: client, host: cfg.Credentials}, nil
}

// AssumeRole asks STS for one session, within 8 seconds. Faults: sts-denied when AWS says no, sts-unreachable when it
// says nothing, is throttling or is broken, host-identity-missing when the host has no credentials to ask with or AWS
// does not accept them.
func (c *Client) AssumeRole(ctx context.Context, g grant.Grant) (secret.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := c.identify(ctx); err != nil {
		return secret.Credentials{}, err
	}
	duration, err := c.allowed(ctx, g)
	if err != nil {
		return secret.Credentials{}, err
	}
	out, err := c.sts.AssumeRole(ctx, input(g, duration), region(g))
	if err != nil {
		return secret.Credentials{}, explain(err, "the role "+g.Role.String())
	}
	if out.Credentials == nil {
		return secret.Credentials{}, fault.New(fault.STSUnreachable, "STS gave no credentials for the role "+g.Role.String(), hintEndpoint)
	}
	return secret.Credentials{
		AccessKeyID:     aws.ToString(out.Credentials.AccessKeyId),
		SecretAccessKey: secret.New(aws.ToString(out.Credentials.SecretAccessKey)),
		SessionToken:    secret.New(aws.ToString(out.Credentials.SessionToken)),
		Expires:         aws.ToTime(out.Credentials.Expiration).UTC().Truncate(time.Second),
		AccountID:       string(g.Role.Account),
		RoleARN:         g.Role.String(),
	}, nil
}

// CallerIdentity returns the ARN STS knows the host by, within 8 seconds. Faults as AssumeRole.
func (c *Client) CallerIdentity(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := c.identify(ctx); err != nil {
		return "", err
	}
	return c.caller(ctx, func(*sts.Options) {})
}

func (c *Client) caller(ctx context.Context, at func(*sts.Options)) (string, error) {
	out, err := c.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, at)
	if err != nil {
		return "", explain(err, "this host's own identity")
	}
	return aws.ToString(out.Arn), nil
}

// identify makes sure that the host has credentials, from the SDK's cache if they are fresh. It is apart from the call
// that uses them because in that call's error the SDK gives no type to tell the two apart by.
func (c *Client) identify(ctx context.Context) error {
	const what = "this host has no AWS credentials of its own"
	if c.host == nil {
		return fault.New(fault.SourceUnavailable, what, hintHost)
	}
	if _, err := c.host.Retrieve(ctx); err != nil {
		return fault.Wrap(err, fault.SourceUnavailable, what+": "+tidy(root(err)), hintHost)
	}
	return nil
}

// allowed is how long a session of the grant may be asked for.
func (c *Client) allowed(ctx context.Context, g grant.Grant) (time.Duration, error) {
	if g.Duration <= chainedLimit {
		return g.Duration, nil
	}
	c.mu.Lock()
	known := c.chained
	c.mu.Unlock()
	if known == nil { // several callers may ask at once, and get the same answer
		arn, err := c.caller(ctx, region(g))
		if err != nil {
			return 0, err
		}
		known = aws.Bool(strings.Contains(arn, ":assumed-role/"))
		c.mu.Lock()
		c.chained = known
		c.mu.Unlock()
	}
	if *known {
		return chainedLimit, nil
	}
	return g.Duration, nil
}

// input says everything in the grant to STS. A duration of 0 leaves it to STS: one hour.
func input(g grant.Grant, d time.Duration) *sts.AssumeRoleInput {
	in := &sts.AssumeRoleInput{RoleArn: aws.String(g.Role.String()), RoleSessionName: aws.String(g.Session)}
	if d > 0 {
		in.DurationSeconds = aws.Int32(int32(d / time.Second)) //nolint:gosec // at most 12 h, checked by the configuration
	}
	if g.ExternalID != "" {
		in.ExternalId = aws.String(g.ExternalID)
	}
	if g.Policy != "" {
		in.Policy = aws.String(g.Policy)
	}
	for _, k := range slices.Sorted(maps.Keys(g.Tags)) {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(k), Value: aws.String(g.Tags[k])})
	}
	return in
}

// region makes one call go to the grant's region. Where nobody names one, it is the first of the role's partition:
// any region's STS gives credentials that are valid in all of them.
func region(g grant.Grant) func(*sts.Options) {
	return func(o *sts.Options) {
		switch {
		case g.Region != "":
			o.Region = g.Region
		case o.Region != "":
		case g.Role.Partition == "aws-cn":
			o.Region = "cn-north-1"
		case g.Role.Partition == "aws-us-gov":
			o.Region = "us-gov-west-1"
		default:
			o.Region = "us-east-1"
		}
	}
}

// root is the text of the innermost error: the SDK wraps it in its own call stack.
func root(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", callLimit)
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
