package cloud_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"taskrole/lab/cloud"
)

// lab is a cloud on loopback listeners, with the SDK's clients for it.
type lab struct {
	*cloud.Cloud

	services, metadata, control string
}

func newLab(t *testing.T, o cloud.Options) *lab {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true") // no client made here may fall back on the machine's own
	c, err := cloud.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Cloud: c}
	for h, url := range map[*httptest.Server]*string{httptest.NewServer(c.Services()): &l.services, httptest.NewServer(c.Control()): &l.control} {
		t.Cleanup(h.Close)
		*url = h.URL
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := c.MetadataServer(), make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	l.metadata = "http://" + listener.Addr().String()
	return l
}

func (l *lab) imdsClient() *imds.Client {
	return imds.New(imds.Options{Endpoint: l.metadata, ClientEnableState: imds.ClientEnabled, Retryer: aws.NopRetryer{}})
}

// instance is the identity that a process on the instance has: keys from the metadata service.
func (l *lab) instance() aws.CredentialsProvider {
	return aws.NewCredentialsCache(ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = l.imdsClient() }))
}

func (l *lab) sts(p aws.CredentialsProvider) *sts.Client {
	return sts.New(sts.Options{Region: l.Region(), BaseEndpoint: aws.String(l.services), Credentials: p, Retryer: aws.NopRetryer{}})
}

func (l *lab) s3(p aws.CredentialsProvider) *s3.Client {
	return s3.New(s3.Options{Region: l.Region(), BaseEndpoint: aws.String(l.services), Credentials: p, Retryer: aws.NopRetryer{}, UsePathStyle: true})
}

// assume is what a container with a role gets.
func (l *lab) assume(role string) aws.CredentialsProvider {
	return aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(l.sts(l.instance()), cloud.RoleARN(role)))
}

func static(c aws.Credentials) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
}

func TestInstanceIsTheInstanceRole(t *testing.T) {
	l := newLab(t, cloud.Options{})
	who, err := l.sts(l.instance()).GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "arn:aws:sts::123456789012:assumed-role/ec2-instance-role/i-0123456789abcdef0"; aws.ToString(who.Arn) != want {
		t.Errorf("Arn = %s, want %s", aws.ToString(who.Arn), want)
	}
	out, err := l.s3(l.instance()).ListBuckets(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Buckets) != 2 {
		t.Errorf("ListBuckets = %v, want the two demonstration buckets", out.Buckets)
	}
}

func TestTaskRoleMayReadAndNotWrite(t *testing.T) {
	l := newLab(t, cloud.Options{TokensRequired: true})
	client := l.s3(l.assume(cloud.TaskReader))
	if _, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(cloud.Reports), Key: aws.String("2026/november.csv")}); err != nil {
		t.Error(err)
	}
	_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(cloud.Reports), Key: aws.String("x"), Body: strings.NewReader("x")})
	if err == nil || !strings.Contains(err.Error(), "is not authorized to perform: s3:PutObject") {
		t.Errorf("PutObject by a reader: %v, want AWS's refusal", err)
	}
}

func TestCopiedKeysWorkOnlyWithTheToken(t *testing.T) {
	l := newLab(t, cloud.Options{})
	creds, err := l.instance().Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.s3(static(creds)).ListBuckets(t.Context(), nil); err != nil {
		t.Errorf("with the token: %v", err)
	}
	without := creds
	without.SessionToken = ""
	if _, err := l.s3(static(without)).ListBuckets(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "InvalidAccessKeyId") {
		t.Errorf("S3 without the token: %v, want InvalidAccessKeyId", err)
	}
	if _, err := l.sts(static(without)).GetCallerIdentity(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "InvalidClientTokenId") {
		t.Errorf("STS without the token: %v, want InvalidClientTokenId", err)
	}
	if n := l.ExpireAll(); n == 0 {
		t.Error("ExpireAll = 0, want at least the copied session")
	}
	if _, err := l.s3(static(creds)).ListBuckets(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "ExpiredToken") {
		t.Errorf("after expiry: %v, want ExpiredToken", err)
	}
	if _, err := l.s3(l.instance()).ListBuckets(t.Context(), nil); err != nil {
		t.Errorf("with fresh keys of the metadata service: %v", err)
	}
}

func TestTrustPoliciesDecide(t *testing.T) {
	l := newLab(t, cloud.Options{})
	client := l.sts(l.instance())
	for _, tc := range []struct {
		role, external, want string
	}{
		{cloud.TaskWriter, "", ""},
		{cloud.TaskExternal, "", "AccessDenied"},
		{cloud.TaskExternal, "wrong", "AccessDenied"},
		{cloud.TaskExternal, cloud.ExternalID, ""},
		{cloud.TaskUntrusted, "", "AccessDenied"},
		{"task-that-is-not-there", "", "AccessDenied"},
	} {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(cloud.RoleARN(tc.role)), RoleSessionName: aws.String("test")}
		if tc.external != "" {
			in.ExternalId = aws.String(tc.external)
		}
		_, err := client.AssumeRole(t.Context(), in)
		if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("AssumeRole(%s, external id %q): %v, want %q", tc.role, tc.external, err, tc.want)
		}
	}
}

// controlCall sends a control request and returns status and body.
func (l *lab) controlCall(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, l.control+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
