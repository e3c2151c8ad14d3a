package egress_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"taskrole/internal/egress"
	"taskrole/internal/fault"
)

func newProxy(tb testing.TB, o egress.Options) *egress.Proxy {
	tb.Helper()
	p, err := egress.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

func inRegion(tb testing.TB, region string, services ...string) *egress.Proxy {
	tb.Helper()
	return newProxy(tb, egress.Options{Region: region, Services: services})
}

// The regions of the oracle: old, new and opt-in ones of every public partition.
var regions = []string{
	"us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-2", "ap-southeast-5", "ap-northeast-1", "il-central-1", "mx-central-1",
	"me-south-1", "af-south-1", "ca-west-1", "sa-east-1", "cn-north-1", "cn-northwest-1", "us-gov-west-1", "us-gov-east-1",
}

// Every host the SDKs resolve for a region may be reached in that region, for the listed service only, and in no other.
func TestEveryHostTheSDKResolvesIsAllowedInItsRegionOnly(t *testing.T) {
	hosts := map[string][]string{} // region service → hosts
	for _, region := range regions {
		for _, f := range []struct{ fips, dual bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
			if f.fips && strings.HasPrefix(region, "cn-") {
				continue // there is none in China
			}
			ep, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(),
				sts.EndpointParameters{Region: aws.String(region), UseFIPS: &f.fips, UseDualStack: &f.dual})
			if err != nil {
				t.Fatal(err)
			}
			hosts[region+" sts"] = append(hosts[region+" sts"], ep.URI.Host)
			for _, bucket := range []string{"", "plain-bucket", "name.with.dots", "arn:PARTITION:s3:REGION:123456789012:accesspoint/ap"} {
				params := s3.EndpointParameters{Region: aws.String(region), UseFIPS: &f.fips, UseDualStack: &f.dual, UseGlobalEndpoint: aws.Bool(true)}
				if bucket != "" {
					partition := "aws"
					if strings.HasPrefix(region, "cn-") {
						partition = "aws-cn"
					} else if strings.HasPrefix(region, "us-gov-") {
						partition = "aws-us-gov"
					}
					params.Bucket = aws.String(strings.NewReplacer("PARTITION", partition, "REGION", region).Replace(bucket))
				}
				ep, err := s3.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(), params)
				if err != nil {
					t.Fatalf("%s %q %v: %v", region, bucket, f, err)
				}
				hosts[region+" s3"] = append(hosts[region+" s3"], ep.URI.Host)
			}
		}
	}
	total := 0
	for key, list := range hosts {
		region, service, _ := strings.Cut(key, " ")
		right, otherService := inRegion(t, region, service), inRegion(t, region, "dynamodb", "sqs")
		other := "eu-north-1"
		if strings.HasPrefix(region, "cn-") {
			other = "cn-south-9"
		}
		elsewhere := inRegion(t, other, service)
		for _, h := range list {
			total++
			if !right.Allows(h + ":443") {
				t.Errorf("%s of %s in %s is refused", h, service, region)
			}
			if right.Allows(h+":80") || right.Allows(h+":8443") {
				t.Errorf("%s is allowed at another port", h)
			}
			if otherService.Allows(h + ":443") {
				t.Errorf("%s is allowed for other services", h)
			}
			if h != "sts.amazonaws.com" && elsewhere.Allows(h+":443") {
				t.Errorf("%s is allowed in %s", h, other)
			}
		}
	}
	if total < 300 {
		t.Errorf("the oracle gave %d hosts only", total)
	}
}

func TestFurtherHosts(t *testing.T) {
	for _, tc := range []struct {
		region, service string
		yes, no         []string
	}{
		{
			"us-east-1", "s3",
			[]string{
				"s3.amazonaws.com", "bucket.s3.amazonaws.com", "S3.US-East-1.AmazonAWS.com", "s3.us-east-1.amazonaws.com.",
				"b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com", "s3express-control.us-east-1.amazonaws.com",
			},
			[]string{
				"s3.eu-west-1.amazonaws.com", "s3.us-east-1.amazonaws.com.evil.example", "evil-s3.us-east-1.amazonaws.com",
				"s3.us-east-1.amazonaws.com.cn", "s3xus-east-1.amazonaws.com", "amazonaws.com", "us-east-1.amazonaws.com", "evils3.amazonaws.com",
				"bucket.s3-website-us-east-1.amazonaws.com", "ec2-203-0-113-1.compute-1.amazonaws.com", "s3.us-east-1.amazonaws.com..",
				"s3..us-east-1.amazonaws.com", "dynamodb.us-east-1.amazonaws.com", "s3.us-east-1.xamazonaws.com",
			},
		},
		{
			"eu-west-1", "s3",
			[]string{"s3-eu-west-1.amazonaws.com", "bucket.s3-eu-west-1.amazonaws.com", "bucket.s3.dualstack.eu-west-1.amazonaws.com"},
			[]string{
				"s3.amazonaws.com", "bucket.s3.amazonaws.com", "vpce-1.s3.eu-west-1.vpce.amazonaws.com", "s3.us-east-1.amazonaws.com",
				"bucket.s3.us-east-1.amazonaws.com", "s3-us-east-1.amazonaws.com", "evils3-eu-west-1.amazonaws.com", "s3-control.eu-west-1.amazonaws.com",
			},
		},
		{
			"eu-west-1", "dynamodb",
			[]string{"dynamodb.eu-west-1.amazonaws.com", "streams.dynamodb.eu-west-1.amazonaws.com", "123456789012.ddb.eu-west-1.amazonaws.com", "dynamodb.eu-west-1.api.aws"},
			[]string{"dynamodb.dualstack.eu-west-1.amazonaws.com", "dynamodb.us-east-1.amazonaws.com"},
		},
		{"eu-west-1", "sts", []string{"sts.amazonaws.com", "sts.eu-west-1.amazonaws.com"}, []string{"x.sts.amazonaws.com", "iam.amazonaws.com"}},
		{"eu-west-1", "iam", []string{"iam.amazonaws.com"}, []string{"iam.us-gov.amazonaws.com", "sts.amazonaws.com"}},
		{"us-gov-west-1", "iam", []string{"iam.us-gov.amazonaws.com"}, []string{"iam.amazonaws.com"}},
		{"us-gov-west-1", "sts", []string{"sts.us-gov-west-1.amazonaws.com"}, []string{"sts.amazonaws.com"}},
		{"cn-north-1", "iam", []string{"iam.cn-north-1.amazonaws.com.cn"}, []string{"iam.amazonaws.com"}},
		{"cn-north-1", "s3", []string{"b.s3.cn-north-1.amazonaws.com.cn"}, []string{"b.s3.cn-north-1.amazonaws.com"}},
		{"eu-west-1", "api.ecr", []string{"api.ecr.eu-west-1.amazonaws.com"}, []string{"ecr.eu-west-1.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com"}},
		{"eu-west-1", "ecr", []string{"api.ecr.eu-west-1.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com", "ecr-fips.eu-west-1.amazonaws.com"}, nil},
	} {
		p := inRegion(t, tc.region, tc.service)
		for _, h := range tc.yes {
			if !p.Allows(h + ":443") {
				t.Errorf("%s in %s: %s is refused", tc.service, tc.region, h)
			}
		}
		for _, h := range tc.no {
			if p.Allows(h + ":443") {
				t.Errorf("%s in %s: %s is allowed", tc.service, tc.region, h)
			}
		}
	}
}

func TestNewRefusesWhatItCannotMean(t *testing.T) {
	for name, o := range map[string]egress.Options{
		"no_region":       {Services: []string{"s3"}},
		"no_such_region":  {Region: "Europe", Services: []string{"s3"}},
		"other_partition": {Region: "cn-north-1", Partition: "aws", Services: []string{"s3"}},
		"upper_case":      {Region: "eu-west-1", Services: []string{"S3"}},
		"star":            {Region: "eu-west-1", Services: []string{"*"}},
		"host":            {Region: "eu-west-1", Services: []string{"s3.eu-west-1.amazonaws.com/"}},
		"anybodys_hosts":  {Region: "eu-west-1", Services: []string{"elb"}},
		"no_scheme":       {Endpoints: []string{"10.0.0.1:80"}},
		"ftp":             {Endpoints: []string{"ftp://10.0.0.1"}},
		"path":            {Endpoints: []string{"http://10.0.0.1/x"}},
		"user":            {Endpoints: []string{"http://u@10.0.0.1"}},
		"query":           {Endpoints: []string{"http://10.0.0.1?x"}},
		"metadata":        {Endpoints: []string{"http://169.254.169.254"}},
		"metadata6":       {Endpoints: []string{"http://[fd00:ec2::254]"}},
		"mapped_metadata": {Endpoints: []string{"http://[::ffff:169.254.169.254]"}},
		"unspecified":     {Endpoints: []string{"http://0.0.0.0:80"}},
		"empty_host":      {Endpoints: []string{"http://:80"}},
		"zone":            {Endpoints: []string{"http://[fe80::1%25eth0]"}},
	} {
		if _, err := egress.New(o); fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, o := range []egress.Options{
		{},
		{Region: "eu-west-1"},
		{Region: "us-gov-west-1", Partition: "aws-us-gov", Services: []string{"s3"}},
		{Endpoints: []string{"http://127.0.0.1:4566", "https://[::1]:8443/", "http://localhost", "https://vpce-1.s3.eu-west-1.vpce.amazonaws.com"}},
	} {
		p, err := egress.New(o)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		p.Close()
	}
}

func TestTargetsHaveOneSpelling(t *testing.T) {
	for in, want := range map[string]string{
		"s3.eu-west-1.amazonaws.com:443": "s3.eu-west-1.amazonaws.com:443", "S3.EU-West-1.AmazonAWS.com.:443": "s3.eu-west-1.amazonaws.com:443",
		"host": "host:443", "10.0.0.1:80": "10.0.0.1:80", "[2001:DB8::1]:80": "[2001:db8::1]:80", "[::ffff:10.0.0.1]:1": "10.0.0.1:1", "[::1]": "[::1]:443",
	} {
		if got, _, _, err := egress.ParseTarget(in, 443); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":443", "a:", "a:0", "a:65536", "a:0443", "a:+443", "a:443 ", " a:443", "a:443:443", "a b:443", "a_b:443", "user@a:443", "a:443@evil:443",
		"a%2eb:443", "a\x00b:443", "ä.example:443", "a..b:443", ".a:443", "a..:443", ".:443", "-a:443", "a-:443", "a/b:443", "a\\b:443", "a?b:443", "a#b:443",
		"[::1%eth0]:443", "[::1%25eth0]:443", "[::1", "::1:443", "[10.0.0.1]:443", "[a]:443", "[::1]x:443", "[]:443", "127.1:443", "2130706433:443",
		"0x7f000001:443", "0x7f.1:443", "010.0.0.1:443", "a.0x1:443", "1.2.3.4.5:443", "256.0.0.1:443", "a:443\r\nX: y", "a,b:443", "*.a:443",
		strings.Repeat("a", 64) + ".b:443", strings.Repeat("a.", 127) + "bcd:443",
	} {
		if got, _, _, err := egress.ParseTarget(in, 443); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
}

func TestNeverReached(t *testing.T) {
	for _, a := range []string{
		"169.254.169.254", "169.254.170.2", "169.254.0.1", "fe80::1", "fd00:ec2::254", "fd00:ec2::23", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1",
		"239.255.255.255", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
		"::169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
	} {
		if egress.NeverReached(netip.MustParseAddr(a)) == "" {
			t.Errorf("%s may be reached", a)
		}
	}
	for _, a := range []string{"10.0.0.1", "52.95.1.1", "127.0.0.1", "::1", "2600:1f00::1", "fd12::1", "100.64.0.1", "64:ff9b::345f:101"} {
		if why := egress.NeverReached(netip.MustParseAddr(a)); why != "" {
			t.Errorf("%s: %s", a, why)
		}
	}
}

// Whatever is understood as a target prints in a form that is understood as the same target, has nothing in it that
// another parser could read differently, and is allowed only if it ends as an AWS name does.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"s3.eu-west-1.amazonaws.com:443", "a:443@evil:443", "[::1%eth0]:443", "a%2eb:443", "127.1:443", "A.:1", "[::ffff:1.2.3.4]:80"} {
		f.Add(s)
	}
	p := inRegion(f, "eu-west-1", "s3")
	f.Fuzz(func(t *testing.T, s string) {
		text, host, addr, err := egress.ParseTarget(s, 0)
		if err != nil {
			if p.Allows(s) {
				t.Errorf("%q is allowed but not understood", s)
			}
			return
		}
		again, _, _, err := egress.ParseTarget(text, 0)
		if err != nil || again != text || strings.ContainsAny(text, "@%/\\?# \r\n\x00_,*") {
			t.Errorf("%q is %q and then %q, %v", s, text, again, err)
		}
		if p.Allows(s) && (addr.IsValid() || !strings.HasSuffix(host, ".amazonaws.com") && !strings.HasSuffix(host, ".api.aws") || !strings.HasSuffix(text, ":443")) {
			t.Errorf("%q is allowed", s)
		}
	})
}
