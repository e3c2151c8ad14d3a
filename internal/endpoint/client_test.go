package endpoint_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
)

func checkCredentials(t *testing.T, p aws.CredentialsProvider, source string) {
	t.Helper()
	c, err := p.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.AccessKeyID != "ASIAEXAMPLE" || c.SecretAccessKey != "se/cret+key" || c.SessionToken != "tok<en&==" || !c.CanExpire || c.Source != source {
		t.Errorf("got key %s, source %s, expires %v", c.AccessKeyID, c.Source, c.CanExpire)
	}
}

// The provider that the default chain would take is made by hand: the chain gives it a client of its own, which would
// really dial 169.254.170.2, and that is for tests in a namespace.
func TestGoSDKUsesTheContainerEndpoint(t *testing.T) {
	w := newWorld(t, nil)
	p := endpointcreds.New(credsURL, func(o *endpointcreds.Options) { o.HTTPClient = w.http })
	checkCredentials(t, p, endpointcreds.ProviderName)
}

func TestGoSDKShowsOurSentence(t *testing.T) {
	w := newWorld(t, nil)
	w.fail(fault.New(fault.STSDenied, "AWS refuses the role", "mend the trust policy"))
	p := endpointcreds.New(credsURL, func(o *endpointcreds.Options) { o.HTTPClient = w.http })
	if _, err := p.Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "sts-denied: AWS refuses the role: mend the trust policy") {
		t.Errorf("the SDK says: %v", err)
	}
}

func imdsClient(w *world, url string) *imds.Client {
	return imds.New(imds.Options{ClientEnableState: imds.ClientEnabled, Endpoint: url, HTTPClient: w.http})
}

func TestGoSDKUsesTheMetadataService(t *testing.T) {
	for _, mode := range []endpoint.Mode{endpoint.V2Only, endpoint.V1AndV2} {
		w := newWorld(t, func(o *endpoint.Options) { o.IMDS = mode })
		for _, url := range []string{imdsURL, imds6URL, imdsURL + "/"} {
			c := imdsClient(w, url)
			checkCredentials(t, ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = c }), ec2rolecreds.ProviderName)
			if r, err := c.GetRegion(t.Context(), nil); err != nil || r.Region != "eu-west-1" {
				t.Errorf("%s GetRegion: %v, %v", url, r, err)
			}
			if d, err := c.GetInstanceIdentityDocument(t.Context(), nil); err != nil || d.AccountID != "123456789012" {
				t.Errorf("%s identity: %v, %v", url, d, err)
			}
			if i, err := c.GetIAMInfo(t.Context(), nil); err != nil || !strings.HasSuffix(i.InstanceProfileArn, "/task-app") {
				t.Errorf("%s iam/info: %v, %v", url, i, err)
			}
		}
	}
}

func TestGoSDKGivesUpAtOnceWhereTheServiceIsOff(t *testing.T) {
	w := newWorld(t, func(o *endpoint.Options) { o.IMDS = endpoint.Off })
	p := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = imdsClient(w, imdsURL) })
	if _, err := p.Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("the SDK says: %v", err)
	}
}

// Fluent Bit finds out the version like this, and asks for every leaf with a slash behind it.
func TestFluentBitSequence(t *testing.T) {
	w := newWorld(t, nil)
	if a := w.do(http.MethodGet, imdsURL+"/", tokenHdr, "INVALID"); a.status != http.StatusUnauthorized {
		t.Fatalf("probe: %d", a.status)
	}
	for _, p := range []string{"/", "/latest/meta-data/instance-id/", "/latest/meta-data/iam/security-credentials/", "/latest/meta-data/iam/security-credentials/task-app"} {
		if a := w.get(imdsURL + p); a.status != http.StatusOK {
			t.Errorf("%s: %d", p, a.status)
		}
	}
}
