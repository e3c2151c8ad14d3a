// Package hostimds asks the host's own instance metadata service what the host is, so that containers can be told.
//
// That service also gives away the host's credentials and its user data, so this door is narrow: it asks for the paths
// in a fixed list and the identity document, and for nothing that anybody else names. It asks with a session token only,
// never through a proxy, and never where AWS_EC2_METADATA_DISABLED says so. A host without the service is nothing
// special: most are.
package hostimds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"taskrole/internal/instance"
)

const (
	// limit bounds the whole of a Fetch. The service answers within milliseconds; what takes longer is another thing.
	limit = 3 * time.Second
	// maxValue bounds a value. AWS's are names and addresses.
	maxValue = 256
)

// Client asks the service. It keeps nothing.
type Client struct{ imds *imds.Client }

// New prepares a client of the service that the host's AWS settings name; it calls nobody. endpoint is another address of
// the service for tests, or "".
func New(ctx context.Context, endpoint string) (*Client, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read this host's AWS configuration: %w", err)
	}
	return &Client{imds: imds.NewFromConfig(cfg, func(o *imds.Options) {
		if endpoint != "" {
			o.Endpoint = endpoint
		}
		o.Retryer = aws.NopRetryer{}
		o.EnableFallback = aws.FalseTernary
		// The SDK would send this through HTTP_PROXY.
		o.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = nil })
	})}, nil
}

// path is one thing that is asked for, below meta-data, and where its answer belongs.
type path struct {
	name string
	to   func(*instance.Facts) *string
}

// paths is everything that is asked for besides the identity document. The first one decides whether the service is there.
func paths() []path {
	return []path{
		{"instance-id", func(f *instance.Facts) *string { return &f.ID }},
		{"instance-type", func(f *instance.Facts) *string { return &f.Type }},
		{"ami-id", func(f *instance.Facts) *string { return &f.ImageID }},
		{"placement/region", func(f *instance.Facts) *string { return &f.Region }},
		{"placement/availability-zone", func(f *instance.Facts) *string { return &f.Zone }},
		{"placement/availability-zone-id", func(f *instance.Facts) *string { return &f.ZoneID }},
		{"local-ipv4", func(f *instance.Facts) *string { return &f.LocalIPv4 }},
		{"hostname", func(f *instance.Facts) *string { return &f.Hostname }},
		{"mac", func(f *instance.Facts) *string { return &f.MAC }},
	}
}

// Fetch asks for everything, within 3 seconds. A path that the service does not know leaves its fact empty; when the
// service is not there or stops answering, the error says so and the facts are not to be used.
func (c *Client) Fetch(ctx context.Context) (instance.Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var f instance.Facts
	for _, p := range paths() {
		v, err := c.get(ctx, p.name)
		if err != nil {
			return instance.Facts{}, fmt.Errorf("ask the host's metadata service for %s: %w", p.name, err)
		}
		*p.to(&f) = v
	}
	d, err := c.imds.GetInstanceIdentityDocument(ctx, nil)
	switch {
	case err == nil:
		f.Architecture = plain(d.Architecture)
		if !d.PendingTime.IsZero() {
			f.PendingTime = d.PendingTime.UTC().Format(time.RFC3339)
		}
	case ctx.Err() != nil:
		return instance.Facts{}, fmt.Errorf("ask the host's metadata service for the identity document: %w", err)
	}
	return f, nil
}

// get returns the value of one path, or "" if the service knows none.
func (c *Client) get(ctx context.Context, name string) (string, error) {
	out, err := c.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: name})
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && answer.HTTPStatusCode() == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Content.Close() }()
	b, err := io.ReadAll(io.LimitReader(out.Content, maxValue+1))
	if err != nil {
		return "", err
	}
	return plain(string(b)), nil
}

// plain returns s if it is one short line of printable ASCII, as AWS's values are, and "" otherwise.
func plain(s string) string {
	if len(s) > maxValue {
		return ""
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return ""
		}
	}
	return s
}
