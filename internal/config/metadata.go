package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// What is allowed in metadata.
const (
	allowedZone     = "the name of an availability zone, such as eu-central-1a"
	allowedZoneID   = "the id of an availability zone, such as euc1-az2"
	allowedInstance = "text of 1 to 64 of A-Z a-z 0-9 . _ -"
	allowedIPv4     = "an IPv4 address, not a link-local one"
	allowedHostname = "a host name"
	allowedMAC      = "six bytes as 0e:00:00:00:00:01"
	allowedFacts    = "at most 50 of KEY: \"VALUE\", keys of 1 to 128 letters digits . _ : = + @ - and not . or .., values of up to 256"
)

var (
	zoneRE     = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+){1,3}-[0-9]{1,2}[a-z]$`)
	zoneIDRE   = regexp.MustCompile(`^[a-z]{2,6}[0-9]{1,2}-az[0-9]{1,2}$`)
	instanceRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	macRE      = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	factKeyRE  = regexp.MustCompile(`^[\p{L}\p{N}._:=+\-@]+$`) // a part of a path; EC2 refuses / and spaces there as well
)

// metadata reads what is told of the instance.
func (w *walker) metadata(c *Config, n *yaml.Node, path string) {
	m := &c.Metadata
	w.mapping(n, path, []field{
		{"host", func(n *yaml.Node, p string) { c.AskHost = w.truth(n, p) }},
		{"zone", func(n *yaml.Node, p string) { m.Zone = value(w, n, p, allowedZone, matching(zoneRE)) }},
		{"zone_id", func(n *yaml.Node, p string) { m.ZoneID = value(w, n, p, allowedZoneID, matching(zoneIDRE)) }},
		{"instance_id", func(n *yaml.Node, p string) { m.ID = value(w, n, p, allowedInstance, matching(instanceRE)) }},
		{"instance_type", func(n *yaml.Node, p string) { m.Type = value(w, n, p, allowedInstance, matching(instanceRE)) }},
		{"image_id", func(n *yaml.Node, p string) { m.ImageID = value(w, n, p, allowedInstance, matching(instanceRE)) }},
		{"local_ipv4", func(n *yaml.Node, p string) { m.LocalIPv4 = value(w, n, p, allowedIPv4, ipv4) }},
		{"hostname", func(n *yaml.Node, p string) { m.Hostname = value(w, n, p, allowedHostname, matching(hostRE)) }},
		{"mac", func(n *yaml.Node, p string) { m.MAC = value(w, n, p, allowedMAC, matching(macRE)) }},
		{"tags", func(n *yaml.Node, p string) { m.Tags = w.instanceTags(n, p) }},
	})
	if m.Zone != "" {
		m.Region = m.Zone[:len(m.Zone)-1]
	}
}

func (w *walker) truth(n *yaml.Node, path string) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		w.add(n, path, "this is "+kind(n), allowedTruth)
		return false
	}
	return n.Value == "true"
}

// matching makes a parser of an expression.
func matching(re *regexp.Regexp) func(string) (string, error) {
	const most = 253 // of a host name; the others are shorter
	return func(s string) (string, error) {
		if len(s) > most || !re.MatchString(s) {
			return "", errors.New(quote(s) + " is none")
		}
		return s, nil
	}
}

func ipv4(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() {
		return "", errors.New(quote(s) + " is none")
	}
	return s, nil
}

func (w *walker) instanceTags(n *yaml.Node, path string) map[string]string {
	tags := map[string]string{}
	w.entries(n, path, allowedFacts, func(key, n *yaml.Node, p string) {
		k := key.Value
		if utf8.RuneCountInString(k) > maxTagKey || !factKeyRE.MatchString(k) || k == "." || k == ".." {
			w.add(key, p, quote(k)+" cannot be the key of a tag", allowedFacts)
		}
		tags[k] = value(w, n, p, allowedFacts, func(s string) (string, error) {
			if utf8.RuneCountInString(s) > maxTagValue || !tagRE.MatchString(s) {
				return "", errors.New(quote(s) + " cannot be the value of a tag")
			}
			return s, nil
		})
	})
	if len(tags) > maxTags {
		w.add(n, path, fmt.Sprintf("there are %d tags", len(tags)), allowedFacts)
	}
	return tags
}
