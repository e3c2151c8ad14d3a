package imds

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Parts of the tree whose values are made when they are asked for.
const (
	rolePath = "meta-data/iam/security-credentials"
	infoPath = "meta-data/iam/info"
)

var versionRE = regexp.MustCompile(`^(latest|1\.0|20[0-9]{2}-[01][0-9]-[0-3][0-9])$`)

// newTree makes everything that does not change, by path below the version.
func newTree(o Options) (map[string]string, error) {
	host := "ip-" + strings.ReplaceAll(o.PrivateIP, ".", "-") + ".ec2.internal"
	const mac = "0e:00:00:00:00:01"
	// botocore takes the region from the zone by cutting the last letter off.
	zone := o.Region + "a"
	identity, err := identityDocument(o, zone)
	if err != nil {
		return nil, err
	}
	tree := map[string]string{"dynamic/instance-identity/document": identity}
	for k, v := range map[string]string{
		"ami-id":                         "ami-0123456789abcdef0",
		"ami-launch-index":               "0",
		"ami-manifest-path":              "(unknown)",
		"block-device-mapping/ami":       "xvda",
		"block-device-mapping/root":      "/dev/xvda",
		"hostname":                       host,
		"instance-action":                "none",
		"instance-id":                    o.InstanceID,
		"instance-life-cycle":            "on-demand",
		"instance-type":                  "t3.micro",
		"local-hostname":                 host,
		"local-ipv4":                     o.PrivateIP,
		"mac":                            mac,
		"placement/availability-zone":    zone,
		"placement/availability-zone-id": "use1-az1",
		"placement/region":               o.Region,
		"profile":                        "default-hvm",
		"reservation-id":                 "r-0123456789abcdef0",
		"security-groups":                "default",
		"services/domain":                "amazonaws.com",
		"services/partition":             "aws",
	} {
		tree["meta-data/"+k] = v
	}
	for k, v := range map[string]string{
		"device-number":   "0",
		"interface-id":    "eni-0123456789abcdef0",
		"local-hostname":  host,
		"local-ipv4s":     o.PrivateIP,
		"mac":             mac,
		"owner-id":        o.AccountID,
		"security-groups": "default",
		"subnet-id":       "subnet-0123456789abcdef0",
		"vpc-id":          "vpc-0123456789abcdef0",
	} {
		tree["meta-data/network/interfaces/macs/"+mac+"/"+k] = v
	}
	return tree, nil
}

// identityDocument has the real document's members, the empty ones too.
func identityDocument(o Options, zone string) (string, error) {
	b, err := json.MarshalIndent(struct {
		AccountID               string    `json:"accountId"`
		Architecture            string    `json:"architecture"`
		AvailabilityZone        string    `json:"availabilityZone"`
		BillingProducts         *[]string `json:"billingProducts"`
		DevpayProductCodes      *[]string `json:"devpayProductCodes"`
		MarketplaceProductCodes *[]string `json:"marketplaceProductCodes"`
		ImageID                 string    `json:"imageId"`
		InstanceID              string    `json:"instanceId"`
		InstanceType            string    `json:"instanceType"`
		KernelID                *string   `json:"kernelId"`
		PendingTime             string    `json:"pendingTime"`
		PrivateIP               string    `json:"privateIp"`
		RamdiskID               *string   `json:"ramdiskId"`
		Region                  string    `json:"region"`
		Version                 string    `json:"version"`
	}{
		AccountID: o.AccountID, Architecture: "x86_64", AvailabilityZone: zone, ImageID: "ami-0123456789abcdef0",
		InstanceID: o.InstanceID, InstanceType: "t3.micro", PendingTime: o.Now().UTC().Format(timeFormat),
		PrivateIP: o.PrivateIP, Region: o.Region, Version: "2017-09-30",
	}, "", "  ")
	return string(b), err
}

// get answers a request that may see the tree.
func (s *Server) get(w http.ResponseWriter, path string) {
	version, rest, _ := strings.Cut(path, "/")
	switch {
	case version == "":
		write(w, "1.0\n2021-07-15\n2024-04-11\nlatest")
	case !versionRE.MatchString(version):
		WriteError(w, http.StatusNotFound)
	default:
		s.getBelow(w, strings.Trim(rest, "/"))
	}
}

func (s *Server) getBelow(w http.ResponseWriter, path string) {
	if role := s.role(); role != "" {
		switch path {
		case rolePath:
			write(w, role) // no newline: some clients use the answer as it is
			return
		case rolePath + "/" + role:
			s.getCredentials(w)
			return
		case infoPath:
			s.getInfo(w)
			return
		}
	}
	if v, ok := s.tree[path]; ok {
		write(w, v)
		return
	}
	if l := s.list(path); l != "" {
		write(w, l)
		return
	}
	WriteError(w, http.StatusNotFound)
}

func (s *Server) getCredentials(w http.ResponseWriter) {
	now := s.o.Now().UTC().Format(timeFormat)
	c, err := s.o.Credentials()
	if err != nil { // 200, and never a key beside a code that is not Success: some clients would take it
		writeJSON(w, struct{ Code, LastUpdated, Message string }{
			"AssumeRoleUnauthorizedAccess", now, fmt.Sprintf("EC2 cannot assume the role %s: %v", s.o.RoleName, err),
		})
		return
	}
	writeJSON(w, struct {
		Code, LastUpdated, Type string
		AccessKeyID             string `json:"AccessKeyId"`
		SecretAccessKey, Token  string
		Expiration              string
	}{"Success", now, "AWS-HMAC", c.AccessKeyID, c.SecretAccessKey, c.Token, c.Expires.UTC().Truncate(time.Second).Format(timeFormat)})
}

func (s *Server) getInfo(w http.ResponseWriter) {
	writeJSON(w, struct {
		Code, LastUpdated string
		ProfileARN        string `json:"InstanceProfileArn"`
		ProfileID         string `json:"InstanceProfileId"`
	}{
		"Success", s.o.Now().UTC().Format(timeFormat),
		"arn:aws:iam::" + s.o.AccountID + ":instance-profile/" + s.o.RoleName, "AIPA0123456789ABCDEFG",
	})
}

// list is a directory: one name a line, directories with a slash at the end; "" when there is nothing below path.
func (s *Server) list(path string) string {
	names := map[string]bool{}
	add := func(full string) {
		below, ok := strings.CutPrefix(full, path+"/")
		if path == "" {
			below, ok = full, true
		}
		if !ok {
			return
		}
		name, _, deep := strings.Cut(below, "/")
		if deep {
			name += "/"
		}
		names[name] = true
	}
	for k := range s.tree {
		add(k)
	}
	if role := s.role(); role != "" {
		add(infoPath)
		add(rolePath + "/" + role)
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n")
}
