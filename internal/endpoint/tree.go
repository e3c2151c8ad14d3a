package endpoint

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"taskrole/internal/instance"
)

// tree is the metadata: path below the version → body. It is an allow-list made of what the agent itself knows of the
// container's role and of the instance, and of the directories above them. Nothing is fetched for a request, whatever
// its path: the host's own service also holds the host's credentials and user data.
type tree map[string][]byte

// newTree makes the tree.
func (s subject) newTree(f instance.Facts) tree {
	f = f.In(s.region)
	const meta = "meta-data/"
	t := tree{}
	leaves := map[string]string{
		meta + "instance-id":                    f.ID,
		meta + "instance-type":                  f.Type,
		meta + "ami-id":                         f.ImageID,
		meta + "hostname":                       f.Hostname,
		meta + "local-hostname":                 f.Hostname,
		meta + "local-ipv4":                     f.LocalIPv4,
		meta + "mac":                            f.MAC,
		meta + "placement/region":               f.Region,
		meta + "placement/availability-zone":    f.Zone,
		meta + "placement/availability-zone-id": f.ZoneID,
		meta + "services/partition":             s.arn.Partition,
		meta + "services/domain":                domain(s.arn.Partition),
		identityPath:                            s.identity(f),
		rolesPath:                               s.roleName(), // one name, no newline (rule R4)
	}
	for path, body := range leaves {
		if body != "" {
			t[path] = []byte(body)
		}
	}
	for k, v := range f.Tags { // the empty ones too
		t[meta+"tags/instance/"+k] = []byte(v)
	}
	t.addListings(rolesPath+"/"+s.roleName(), infoPath)
	return t
}

// addListings adds the directories of what is in the tree and of further paths that are answered elsewhere. Below
// meta-data and dynamic, a directory has a slash behind its name.
func (t tree) addListings(further ...string) {
	entries := map[string]map[string]bool{}
	for _, path := range append(slices.Collect(maps.Keys(t)), further...) {
		if path == rolesPath { // it comes with the role below it
			continue
		}
		dir := ""
		parts := strings.Split(path, "/")
		for i, part := range parts {
			if entries[dir] == nil {
				entries[dir] = map[string]bool{}
			}
			name := part
			if i > 0 && i < len(parts)-1 {
				name += "/"
			}
			entries[dir][name] = true
			dir = strings.TrimPrefix(dir+"/"+part, "/")
		}
	}
	for dir, names := range entries {
		if _, ok := t[dir]; !ok {
			t[dir] = []byte(strings.Join(slices.Sorted(maps.Keys(names)), "\n"))
		}
	}
}

// oldest is the first dated version of the service.
const oldest = "2007-01-19"

// versions is what GET / answers: the service's own list. Who looks for a version takes the newest it knows.
const versions = "1.0\n" + oldest + `
2007-03-01
2007-08-29
2007-10-10
2007-12-15
2008-02-01
2008-09-01
2009-04-04
2011-01-01
2011-05-01
2012-01-12
2014-02-25
2014-11-05
2015-10-20
2016-04-19
2016-06-30
2016-09-02
2018-03-28
2018-08-17
2018-09-24
2019-10-01
2020-10-27
2021-01-03
2021-03-23
2021-07-15
2022-09-24
2024-04-11
latest`

// version cuts the version off a tidied path. All versions tell the same. One with a date that is not in the list is
// taken too: it may be newer than the list.
func version(path string) (rest string, ok bool) {
	v, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if v == "latest" || v == "1.0" {
		return rest, true
	}
	_, err := time.Parse(time.DateOnly, v)
	return rest, err == nil && v >= oldest
}

// roleName is what the instance metadata service lists: the name in IAM, without the path.
func (s subject) roleName() string {
	if s.arn.Name != "" {
		return s.arn.Name
	}
	return s.role
}

// domain is the DNS suffix of a partition's services.
func domain(partition string) string {
	switch partition {
	case "aws", "aws-us-gov":
		return "amazonaws.com"
	case "aws-cn":
		return "amazonaws.com.cn"
	}
	return ""
}

// identity is the instance identity document, with null for what is not known. The account is the role's: it is the one
// the container works in. SDKs take the region out of it; without one there is no document.
func (s subject) identity(f instance.Facts) string {
	if f.Region == "" {
		return ""
	}
	known := func(v string) *string {
		if v == "" {
			return nil
		}
		return &v
	}
	b, err := json.MarshalIndent(struct {
		AccountID               *string  `json:"accountId"`
		Architecture            *string  `json:"architecture"`
		AvailabilityZone        *string  `json:"availabilityZone"`
		BillingProducts         []string `json:"billingProducts"`
		DevpayProductCodes      []string `json:"devpayProductCodes"`
		MarketplaceProductCodes []string `json:"marketplaceProductCodes"`
		ImageID                 *string  `json:"imageId"`
		InstanceID              *string  `json:"instanceId"`
		InstanceType            *string  `json:"instanceType"`
		KernelID                *string  `json:"kernelId"`
		PendingTime             *string  `json:"pendingTime"`
		PrivateIP               *string  `json:"privateIp"`
		RamdiskID               *string  `json:"ramdiskId"`
		Region                  string   `json:"region"`
		Version                 string   `json:"version"`
	}{
		AccountID: known(string(s.arn.Account)), Architecture: known(f.Architecture), AvailabilityZone: known(f.Zone),
		ImageID: known(f.ImageID), InstanceID: known(f.ID), InstanceType: known(f.Type), PendingTime: known(f.PendingTime),
		PrivateIP: known(f.LocalIPv4), Region: f.Region, Version: "2017-09-30",
	}, "", "  ")
	if err != nil { // strings always marshal
		return ""
	}
	return string(b)
}

// instanceProfile makes the document of iam/info. There is no instance profile, so its id is made up of the role's ARN,
// in AWS's form, and is always the same.
func (s subject) instanceProfile(updated time.Time) []byte {
	const idLength = 17 // after AIPA
	sum := sha256.Sum256([]byte(s.arn.String()))
	id := "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:idLength]
	arn := "arn:" + s.arn.Partition + ":iam::" + string(s.arn.Account) + ":instance-profile/" + s.roleName()
	b, err := json.MarshalIndent(struct {
		Code               string
		LastUpdated        string
		InstanceProfileArn string
		InstanceProfileID  string `json:"InstanceProfileId"`
	}{"Success", updated.UTC().Format(stamp), arn, id}, "", "  ")
	if err != nil { // strings always marshal
		return nil
	}
	return b
}
