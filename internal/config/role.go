package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"taskrole/internal/arn"
	"taskrole/internal/policy"
)

// What is allowed in a role.
const (
	allowedName       = "1 to 63 of a-z 0-9 . _ -, the first and the last a letter or digit"
	allowedARN        = "arn:aws:iam::ACCOUNT:role/NAME, or leave it out for the role of the same name in account"
	allowedDuration   = "15m to 12h, with its unit, such as 1h or 90m"
	allowedExternalID = "text of 2 to 1224 of A-Z a-z 0-9 _ + = , . @ : / -"
	allowedPolicy     = "a JSON object of at most 2048 characters, as text"
	allowedTags       = "at most 50 of KEY: \"VALUE\", letters digits spaces _ . : / = + @ -, up to 128 and 256 of them, not aws:…"
	allowedIMDS       = "v2-only, v1-and-v2, off"
	allowedInject     = "relative, full, pod-identity"
	allowedServices   = "a list of AWS services by their endpoint's name, such as s3, sts, logs"
	allowedEndpoints  = "a list of " + allowedEndpoint
	allowedEgress     = "services, endpoints, or both"
	allowedAllow      = "a list of rules, each of any: true or of name, image, labels"
	allowedPattern    = "text of 1 to 256 bytes; * stands for any characters, ? for one"
	allowedLabels     = "a mapping of label names to patterns"
)

// Limits of STS's AssumeRole, from its API reference.
const (
	minDuration = 15 * time.Minute
	maxDuration = 12 * time.Hour
	maxPolicy   = 2048

	minExternalID = 2
	maxExternalID = 1224

	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

var (
	roleNameRE   = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`) // a CDI device name as well
	regionRE     = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+){1,3}-[0-9]{1,2}$`)
	externalIDRE = regexp.MustCompile(`^[\w+=,.@:/-]+$`)
)

const maxRoleName = 63

func isRoleName(s string) bool { return len(s) <= maxRoleName && roleNameRE.MatchString(s) }

// isTag says whether IAM takes s as the key or value of a tag, as far as its characters are concerned.
func isTag(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", r)
	}) < 0
}

// role reads one role. Key is its name, where what is missing is reported; top has the keys at the top of the file.
func (w *walker) role(c *Config, key, n *yaml.Node, path string, top map[string]*yaml.Node) Role {
	r := defaultRole(key.Value)
	if !isRoleName(r.Name) {
		w.add(key, path, quote(r.Name)+" cannot be the name of a role", allowedName)
	}
	seen := w.mapping(n, path, []field{
		{"arn", func(n *yaml.Node, p string) { r.ARN = value(w, n, p, allowedARN, arn.ParseRole) }},
		{"session", func(n *yaml.Node, p string) { r.Session = value(w, n, p, allowedSession, checkTemplate) }},
		{"duration", func(n *yaml.Node, p string) { r.Duration = value(w, n, p, allowedDuration, duration) }},
		{"region", func(n *yaml.Node, p string) { r.Region = value(w, n, p, allowedRegion, region) }},
		{"external_id", func(n *yaml.Node, p string) { r.ExternalID = value(w, n, p, allowedExternalID, externalID) }},
		{"policy", func(n *yaml.Node, p string) { r.Policy = value(w, n, p, allowedPolicy, sessionPolicy) }},
		{"tags", func(n *yaml.Node, p string) { r.Tags = w.tags(n, p) }},
		{"imds", func(n *yaml.Node, p string) { r.IMDS = value(w, n, p, allowedIMDS, imdsMode) }},
		{"inject", func(n *yaml.Node, p string) { r.Inject = value(w, n, p, allowedInject, injection) }},
		{"task_metadata", func(n *yaml.Node, p string) { r.TaskMetadata = w.taskMetadata(c, n, p) }},
		{"awslogs", func(n *yaml.Node, p string) { r.AWSLogs = w.awsLogs(c, n, p) }},
		{"share_network", func(n *yaml.Node, p string) { r.ShareNetwork = w.truth(n, p) }},
		{"egress", func(n *yaml.Node, p string) { r.Egress = w.egress(n, p) }},
		{"allow", func(n *yaml.Node, p string) { r.Allow = w.allow(c, n, p) }},
	})
	if n.Kind != yaml.MappingNode {
		return r
	}
	if seen["allow"] == nil {
		w.add(key, path, "the role has no allow, so no container could hold it", "allow, with "+allowedAllow)
	}
	if seen["arn"] == nil {
		r.ARN = w.ownARN(c, key, r, path, top)
	}
	if r.Egress != nil && len(r.Egress.Services) > 0 && seen["region"] == nil && top["region"] == nil {
		w.add(seen["egress"], path+".egress", "services are in a region, and none is named", "region: in the role, or at the top of the file")
	}
	return r
}

// ownARN is the ARN of a role that gives none: of the same name, in the configuration's account.
func (w *walker) ownARN(c *Config, key *yaml.Node, r Role, path string, top map[string]*yaml.Node) arn.Role {
	if c.Account == "" {
		if top["account"] == nil { // else its own problem was reported
			w.add(key, path, "the role has no arn, and there is no account at the top of the file", allowedARN)
		}
		return arn.Role{}
	}
	role, err := arn.NewRole(partition(c.RegionOf(r)), c.Account, "/", r.Name)
	if err != nil && isRoleName(r.Name) { // else reported
		w.add(key, path, err.Error(), allowedARN)
	}
	return role
}

// partition is the part of AWS a region belongs to; regions elsewhere have names of their own.
func partition(region string) string {
	for _, p := range []struct{ prefix, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"}, {"eusc-", "aws-eusc"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

func (w *walker) allow(c *Config, n *yaml.Node, path string) []policy.Rule {
	var rules []policy.Rule
	w.list(n, path, allowedAllow, func(n *yaml.Node, path string) {
		var r policy.Rule
		seen := w.mapping(n, path, []field{
			{"any", func(n *yaml.Node, p string) { r.Any = w.any(n, p) }},
			{"name", func(n *yaml.Node, p string) { r.Name = value(w, n, p, allowedPattern, pattern) }},
			{"image", func(n *yaml.Node, p string) { r.Image = value(w, n, p, allowedPattern, pattern) }},
			{"labels", func(n *yaml.Node, p string) { r.Labels = w.labels(n, p) }},
		})
		switch {
		case n.Kind != yaml.MappingNode:
		case len(n.Content) == 0:
			w.add(n, path, "the rule asks for nothing", "any: true, or name, image, labels")
		case seen["any"] != nil && len(seen) > 1:
			w.add(seen["any"], path, "any beside other keys", "any: true alone, or name, image, labels, which must all match")
		case r.NeedsEngine() && !c.HasEngine():
			w.add(n, path, "the rule asks what only an engine knows, and engines has none", "any: true, or an engine")
		}
		rules = append(rules, r)
	})
	return rules
}

func (w *walker) taskMetadata(c *Config, n *yaml.Node, path string) bool {
	on := w.truth(n, path)
	if on && !c.HasEngine() {
		w.add(n, path, "task metadata are what an engine says, and engines has none", "false, or an engine")
	}
	return on
}

func (w *walker) awsLogs(c *Config, n *yaml.Node, path string) bool {
	on := w.truth(n, path)
	if on && c.Docker == "" {
		w.add(n, path, "it is Docker's log driver, and engines.docker is none", "false, or an engine")
	}
	return on
}

func (w *walker) any(n *yaml.Node, path string) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Value != "true" {
		w.add(n, path, "this is "+kind(n)+", and any says nothing but true", "true, or leave the key out")
	}
	return true
}

func (w *walker) labels(n *yaml.Node, path string) map[string]string {
	m := map[string]string{}
	w.entries(n, path, allowedLabels, func(key, n *yaml.Node, p string) {
		m[key.Value] = value(w, n, p, allowedPattern, pattern)
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		w.add(n, path, "there are no labels", allowedLabels)
	}
	return m
}

func pattern(s string) (string, error) {
	const most = 256
	if s == "" || len(s) > most {
		return "", fmt.Errorf("a pattern of %d bytes", len(s))
	}
	return s, nil
}

func (w *walker) tags(n *yaml.Node, path string) map[string]string {
	tags := map[string]string{}
	folded := map[string]string{}
	w.entries(n, path, allowedTags, func(key, n *yaml.Node, p string) {
		k := key.Value
		if first, ok := folded[strings.ToLower(k)]; ok && first != k {
			w.add(key, p, "to STS this is the same key as "+quote(first), "keys that differ in more than case")
		}
		folded[strings.ToLower(k)] = k
		if k == "" || utf8.RuneCountInString(k) > maxTagKey || !isTag(k) || strings.HasPrefix(strings.ToLower(k), "aws:") {
			w.add(key, p, quote(k)+" cannot be the key of a tag", allowedTags)
		}
		tags[k] = value(w, n, p, allowedTags, func(s string) (string, error) {
			if utf8.RuneCountInString(s) > maxTagValue || !isTag(s) {
				return "", errors.New(quote(s) + " cannot be the value of a tag")
			}
			return s, nil
		})
	})
	if len(tags) > maxTags {
		w.add(n, path, fmt.Sprintf("there are %d tags", len(tags)), allowedTags)
	}
	return tags
}

func (w *walker) egress(n *yaml.Node, path string) *Egress {
	e := &Egress{}
	unique := func(n *yaml.Node, path, v string, list []string) []string {
		if v == "" {
			return list // reported
		}
		if slices.Contains(list, v) {
			w.add(n, path, quote(v)+" is given twice", "each one once")
		}
		return append(list, v)
	}
	w.mapping(n, path, []field{
		{"services", func(n *yaml.Node, p string) {
			w.list(n, p, allowedServices, func(n *yaml.Node, p string) {
				e.Services = unique(n, p, value(w, n, p, allowedServices, service), e.Services)
			})
		}},
		{"endpoints", func(n *yaml.Node, p string) {
			w.list(n, p, allowedEndpoints, func(n *yaml.Node, p string) {
				e.Endpoints = unique(n, p, value(w, n, p, allowedEndpoint, endpoint), e.Endpoints)
			})
		}},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		w.add(n, path, "nothing may be reached", allowedEgress+", or leave egress out")
	}
	return e
}

func service(s string) (string, error) {
	if !isLabel(s) {
		return "", errors.New(quote(s) + " is not the name of a service's endpoint")
	}
	return s, nil
}

func region(s string) (string, error) {
	if !regionRE.MatchString(s) {
		return "", errors.New(quote(s) + " is not a region")
	}
	return s, nil
}

func externalID(s string) (string, error) {
	if len(s) < minExternalID || len(s) > maxExternalID || !externalIDRE.MatchString(s) {
		return "", errors.New(quote(s) + " is not an external id")
	}
	return s, nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < minDuration || d > maxDuration || d%time.Second != 0 {
		return 0, errors.New(quote(s) + " is not a duration that a session can have")
	}
	return d, nil
}

func imdsMode(s string) (IMDSMode, error) {
	if m := IMDSMode(s); m == IMDSv2Only || m == IMDSv1AndV2 || m == IMDSOff {
		return m, nil
	}
	return "", errors.New(quote(s) + " is no such mode")
}

func injection(s string) (Injection, error) {
	if i := Injection(s); i == InjectRelative || i == InjectFull || i == InjectPodIdentity {
		return i, nil
	}
	return "", errors.New(quote(s) + " is no such way")
}

// sessionPolicy returns the policy without the white space, which counts for STS's limit.
func sessionPolicy(s string) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		return "", fmt.Errorf("the policy is not JSON: %w", err)
	}
	if !strings.HasPrefix(b.String(), "{") || utf8.RuneCount(b.Bytes()) > maxPolicy {
		return "", fmt.Errorf("the policy is no object, or too long with its %d characters", utf8.RuneCount(b.Bytes()))
	}
	return b.String(), nil
}
