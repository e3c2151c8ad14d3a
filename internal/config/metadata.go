package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
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
	instanceRE = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	macRE      = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
)

// metadata reads what is told of the instance.
func (w *walker) metadata(c *Config, n *yaml.Node, path string) {
	m := &c.Metadata
	w.mapping(n, path, []field{
		{"host", func(n *yaml.Node, p string) { c.AskHost = w.truth(n, p) }},
		{"zone", func(n *yaml.Node, p string) { m.Zone = value(w, n, p, allowedZone, matching(zoneRE.MatchString)) }},
		{"zone_id", func(n *yaml.Node, p string) { m.ZoneID = value(w, n, p, allowedZoneID, matching(zoneIDRE.MatchString)) }},
		{"instance_id", func(n *yaml.Node, p string) { m.ID = value(w, n, p, allowedInstance, matching(isInstance)) }},
		{"instance_type", func(n *yaml.Node, p string) { m.Type = value(w, n, p, allowedInstance, matching(isInstance)) }},
		{"image_id", func(n *yaml.Node, p string) { m.ImageID = value(w, n, p, allowedInstance, matching(isInstance)) }},
		{"local_ipv4", func(n *yaml.Node, p string) { m.LocalIPv4 = value(w, n, p, allowedIPv4, ipv4) }},
		{"hostname", func(n *yaml.Node, p string) { m.Hostname = value(w, n, p, allowedHostname, matching(isHost)) }},
		{"mac", func(n *yaml.Node, p string) { m.MAC = value(w, n, p, allowedMAC, matching(macRE.MatchString)) }},
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

const maxInstance = 64

// isInstance says whether s can be an id or a type of EC2's.
func isInstance(s string) bool { return len(s) <= maxInstance && instanceRE.MatchString(s) }

// isFactKey says whether s can be the key of a tag that is a part of a path: EC2 refuses / and spaces there as well.
func isFactKey(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.N) && !strings.ContainsRune("._:=+-@", r)
	}) < 0
}

// matching makes a parser of a condition.
func matching(is func(string) bool) func(string) (string, error) {
	const most = 253 // of a host name; the others are shorter
	return func(s string) (string, error) {
		if len(s) > most || !is(s) {
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
		if utf8.RuneCountInString(k) > maxTagKey || !isFactKey(k) || k == "." || k == ".." {
			w.add(key, p, quote(k)+" cannot be the key of a tag", allowedFacts)
		}
		tags[k] = value(w, n, p, allowedFacts, func(s string) (string, error) {
			if utf8.RuneCountInString(s) > maxTagValue || !isTag(s) {
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
