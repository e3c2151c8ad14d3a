package endpoint

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// tree is the metadata that never changes: tidied path → body. It is an allow-list made of what the agent itself knows
// of the container and its role, and of the directories above them. Nothing is ever fetched from the host's metadata service: that one also holds the
// host's credentials and user data.
type tree map[string][]byte

// newTree makes the tree.
func newTree(o Options) tree {
	const meta = "/latest/meta-data/"
	t := tree{}
	for path, body := range map[string]string{
		meta + "instance-id":                 o.InstanceID,
		meta + "placement/region":            o.Region,
		meta + "placement/availability-zone": o.Zone,
		meta + "services/partition":          o.RoleARN.Partition,
		meta + "services/domain":             domain(o.RoleARN.Partition),
		identityPath:                         identity(o),
		rolesPath:                            roleName(o), // one name, no newline (rule R4)
	} {
		if body != "" {
			t[path] = []byte(body)
		}
	}
	t.addListings(rolesPath+"/"+roleName(o), infoPath)
	return t
}

// addListings adds the directories of what is in the tree and of further paths that are answered elsewhere. From
// meta-data on, a directory has a slash behind its name.
func (t tree) addListings(further ...string) {
	const slashFrom = 2 // /latest/meta-data
	entries := map[string]map[string]bool{}
	for _, path := range append(slices.Collect(maps.Keys(t)), further...) {
		if path == rolesPath { // it comes with the role below it
			continue
		}
		dir := ""
		parts := strings.Split(path, "/")[1:]
		for i, part := range parts {
			if entries[dir] == nil {
				entries[dir] = map[string]bool{}
			}
			name := part
			if i >= slashFrom && i < len(parts)-1 {
				name += "/"
			}
			entries[dir][name] = true
			dir += "/" + part
		}
	}
	for dir, names := range entries {
		if _, ok := t[dir]; !ok {
			t[dir] = []byte(strings.Join(slices.Sorted(maps.Keys(names)), "\n"))
		}
	}
}

// roleName is what the instance metadata service lists: the name in IAM, without the path.
func roleName(o Options) string {
	if o.RoleARN.Name != "" {
		return o.RoleARN.Name
	}
	return o.Role
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

// identity is the instance identity document with the members we know. SDKs take the region out of it; without one there
// is no document.
func identity(o Options) string {
	if o.Region == "" {
		return ""
	}
	b, err := json.MarshalIndent(struct {
		AccountID        string `json:"accountId,omitempty"`
		AvailabilityZone string `json:"availabilityZone,omitempty"`
		InstanceID       string `json:"instanceId,omitempty"`
		Region           string `json:"region"`
		Version          string `json:"version"`
	}{string(o.RoleARN.Account), o.Zone, o.InstanceID, o.Region, "2017-09-30"}, "", "  ")
	if err != nil { // strings always marshal
		return ""
	}
	return string(b)
}

// instanceProfile makes the document of iam/info. There is no instance profile, so its id is made up of the role's ARN,
// in AWS's form, and is always the same.
func instanceProfile(o Options) func(updated time.Time) []byte {
	const idLength = 17 // after AIPA
	sum := sha256.Sum256([]byte(o.RoleARN.String()))
	id := "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:idLength]
	arn := "arn:" + o.RoleARN.Partition + ":iam::" + string(o.RoleARN.Account) + ":instance-profile/" + roleName(o)
	return func(updated time.Time) []byte {
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
}
