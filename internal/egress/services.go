package egress

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// partition is how AWS names hosts in one of its worlds.
type partition struct {
	suffixes []string // the first is the usual one, the others are for dual stack
	// global are names without a region, of services that have such; a service that is listed may be reached there.
	global map[string][]string
}

// partitions returns the three public ones. The suffixes are those of the endpoint rules the AWS SDKs are generated
// from; the global names are from "Service endpoints and quotas" in the AWS general reference. The functions of
// a region that S3 alone has are in has.
func partitions() map[string]partition {
	return map[string]partition{
		"aws": {[]string{"amazonaws.com", "api.aws"}, map[string][]string{
			"sts":           {"sts.amazonaws.com"},
			"iam":           {"iam.amazonaws.com", "iam-fips.amazonaws.com", "iam.global.api.aws"},
			"route53":       {"route53.amazonaws.com", "route53-fips.amazonaws.com", "route53.global.api.aws"},
			"cloudfront":    {"cloudfront.amazonaws.com", "cloudfront-fips.amazonaws.com", "cloudfront.global.api.aws"},
			"organizations": {"organizations.us-east-1.amazonaws.com", "organizations-fips.us-east-1.amazonaws.com"},
			"budgets":       {"budgets.amazonaws.com"},
		}},
		"aws-cn": {[]string{"amazonaws.com.cn", "api.amazonwebservices.com.cn"}, map[string][]string{
			"iam":     {"iam.cn-north-1.amazonaws.com.cn"},
			"route53": {"route53.amazonaws.com.cn"},
		}},
		"aws-us-gov": {[]string{"amazonaws.com", "api.aws"}, map[string][]string{
			"iam":           {"iam.us-gov.amazonaws.com"},
			"route53":       {"route53.us-gov.amazonaws.com"},
			"organizations": {"organizations.us-gov-west-1.amazonaws.com"},
		}},
	}
}

// companions are further prefixes that clients of a service are sent to by their SDK.
func companions(service string) []string {
	switch service {
	case "s3":
		return []string{"s3-accesspoint", "s3-object-lambda", "s3-outposts", "s3express-control"}
	case "dynamodb":
		return []string{"ddb"} // ACCOUNT.ddb.REGION, which SDKs use since 2024
	case "kinesis":
		return []string{"data-kinesis", "control-kinesis"} // ACCOUNT.…
	}
	return nil
}

// strangers are names that look like services, and whose hosts are anybody's machines.
func strangers() []string {
	return []string{"elb", "compute", "vpce", "s3-website", "elasticbeanstalk", "cs", "rds", "redshift", "cache", "lambda-url"}
}

var (
	serviceRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	regionRE  = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)
	// Directory buckets: bucket--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com.
	expressRE = regexp.MustCompile(`^s3express(-fips)?-[a-z0-9]+-az[0-9]+$`)
)

// services knows the host names of some services in one region.
type services struct {
	region   string
	suffixes []string // with a dot in front
	prefixes []string // of regional names: the services, their companions, and both with -fips
	global   []string
	s3       bool
	names    []string // as configured
}

func newServices(o Options) (services, error) {
	s := services{region: o.Region, names: o.Services}
	if len(o.Services) == 0 {
		return s, nil
	}
	if !regionRE.MatchString(o.Region) {
		return s, fmt.Errorf("services need a region, and %s is none", cut(o.Region))
	}
	name := partitionOf(o.Region)
	if o.Partition != "" && o.Partition != name {
		return s, fmt.Errorf("region %s is in partition %s, not in %s", o.Region, name, cut(o.Partition))
	}
	p := partitions()[name]
	for _, suffix := range p.suffixes {
		s.suffixes = append(s.suffixes, "."+suffix)
	}
	for _, service := range o.Services {
		if !serviceRE.MatchString(service) || slices.Contains(strangers(), service) {
			return s, fmt.Errorf("%s is no service: expected the first part of its endpoint's name, such as s3, sts, dynamodb or logs", cut(service))
		}
		for _, prefix := range append(companions(service), service) {
			s.prefixes = append(s.prefixes, prefix, prefix+"-fips")
		}
		s.global = append(s.global, p.global[service]...)
		s.s3 = s.s3 || service == "s3"
	}
	return s, nil
}

// partitionOf is the partition a region belongs to.
func partitionOf(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// has says whether host, in lower case and without the last dot, is an endpoint of one of the services in the region.
// Names are taken apart from the right, so nothing can be hidden in front.
func (s services) has(host string) bool {
	if slices.Contains(s.global, host) {
		return true
	}
	for _, suffix := range s.suffixes {
		if rest, ok := strings.CutSuffix(host, suffix); ok && s.regional(rest) {
			return true
		}
	}
	return s.s3 && s.region == "us-east-1" && under(host, "s3.amazonaws.com") // where older SDKs look for S3's first region
}

// regional looks at what is before the suffix: [NAME.]PREFIX[.dualstack].REGION.
func (s services) regional(rest string) bool {
	if s.s3 && under(rest, "s3-"+s.region) { // the old spelling, which is still printed in places
		return true
	}
	rest, ok := strings.CutSuffix(rest, "."+s.region)
	if !ok {
		return false
	}
	if s.s3 {
		rest = strings.TrimSuffix(rest, ".dualstack")
		if expressRE.MatchString(rest[strings.LastIndexByte(rest, '.')+1:]) {
			return true
		}
	}
	return slices.ContainsFunc(s.prefixes, func(prefix string) bool { return under(rest, prefix) })
}

// under says whether host is name or a name below it.
func under(host, name string) bool {
	return host == name || strings.HasSuffix(host, "."+name)
}

// hint adds to a refusal what is most often wrong: the region.
func (s services) hint(host string) string {
	for _, suffix := range s.suffixes {
		if strings.HasSuffix(host, suffix) {
			return fmt.Sprintf("; it has %s in %s", strings.Join(s.names, ", "), s.region)
		}
	}
	return ""
}
