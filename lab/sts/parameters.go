package sts

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of AssumeRole, from the STS API reference.
const (
	minDuration, maxDuration = 900, 43200
	minName, maxName         = 2, 64
	minARN, maxARN           = 20, 2048
	minExternal, maxExternal = 2, 1224
	maxPolicy                = 2048
	maxTags                  = 50
	maxTagKey, maxTagValue   = 128, 256
)

const (
	namePattern     = `[\w+=,.@-]*`
	externalPattern = `[\w+=,.@:\/-]*`
)

var (
	nameRE     = regexp.MustCompile(`^[\w+=,.@-]*$`)
	externalRE = regexp.MustCompile(`^[\w+=,.@:/-]*$`)
	memberRE   = regexp.MustCompile(`^(Tags|TransitiveTagKeys)\.member\.([1-9][0-9]{0,3})(?:\.(Key|Value))?$`)
)

// input is AssumeRole's, checked one by one but not yet against the account.
type input struct {
	roleARN, session, externalID, policy string
	duration                             time.Duration
	tags                                 map[string]string
	transitive                           []string
}

// parameters returns the action's own parameters and refuses the ones that are neither known, the protocol's nor the
// signature's.
func (c *call) parameters(known func(string) bool) (url.Values, error) {
	own := url.Values{}
	for k, v := range c.form {
		switch {
		case k == "Action", k == "Version", strings.HasPrefix(k, "X-Amz-"):
			continue
		case known == nil || !known(k):
			return nil, sender("ValidationError", fmt.Sprintf("the laboratory does not know the parameter %q", cut(k)))
		case len(v) > 1:
			return nil, sender("MalformedQueryString", fmt.Sprintf("the parameter %q is there twice", cut(k)))
		}
		own[k] = v
	}
	return own, nil
}

func knownToAssumeRole(k string) bool {
	switch k {
	case "RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId", "Policy":
		return true
	}
	return memberRE.MatchString(k)
}

// parseInput reads AssumeRole's parameters; like AWS it lists all that is wrong with them at once.
func parseInput(f url.Values) (*input, error) {
	in := &input{
		roleARN: f.Get("RoleArn"), session: f.Get("RoleSessionName"), externalID: f.Get("ExternalId"),
		policy: f.Get("Policy"), duration: time.Hour,
	}
	v := &violations{}
	v.length(f, "RoleArn", minARN, maxARN, true)
	v.length(f, "RoleSessionName", minName, maxName, true)
	v.pattern(in.session, "roleSessionName", namePattern, nameRE)
	v.length(f, "ExternalId", minExternal, maxExternal, false)
	v.pattern(in.externalID, "externalId", externalPattern, externalRE)
	v.length(f, "Policy", 1, maxPolicy, false)
	if text := f.Get("DurationSeconds"); text != "" {
		n, err := strconv.Atoi(text)
		switch {
		case err != nil:
			return nil, sender("MalformedInput", "DurationSeconds is not a number")
		case n < minDuration:
			v.add(text, "durationSeconds", fmt.Sprintf("Member must have value greater than or equal to %d", minDuration))
		case n > maxDuration:
			v.add(text, "durationSeconds", fmt.Sprintf("Member must have value less than or equal to %d", maxDuration))
		}
		in.duration = time.Duration(n) * time.Second
	}
	pairs := readTags(f, v)
	if err := v.err(); err != nil {
		return nil, err
	}
	return in, in.setTags(pairs, f)
}

// tag is one Tags.member as it was sent.
type tag struct{ key, value string }

// readTags returns the tags by number, in order.
func readTags(f url.Values, v *violations) []tag {
	byNumber := map[int]tag{}
	for k := range f {
		m := memberRE.FindStringSubmatch(k)
		if m == nil || m[1] != "Tags" {
			continue
		}
		n, _ := strconv.Atoi(m[2]) // digits, by the expression
		t := byNumber[n]
		if m[3] == "Key" {
			t.key = f.Get(k)
		} else {
			t.value = f.Get(k)
		}
		byNumber[n] = t
	}
	if len(byNumber) > maxTags {
		v.add("", "tags", fmt.Sprintf("Member must have length less than or equal to %d", maxTags))
	}
	var tags []tag
	for n, t := range byNumber {
		field := fmt.Sprintf("tags.%d.member", n)
		if t.key == "" || len(t.key) > maxTagKey {
			v.add(cut(t.key), field+".key", fmt.Sprintf("Member must have length between 1 and %d", maxTagKey))
		}
		if len(t.value) > maxTagValue {
			v.add(cut(t.value), field+".value", fmt.Sprintf("Member must have length less than or equal to %d", maxTagValue))
		}
		tags = append(tags, t)
	}
	return tags
}

// setTags refuses keys that are there twice, which AWS compares without case, and reserved ones.
func (in *input) setTags(pairs []tag, f url.Values) error {
	in.tags = make(map[string]string, len(pairs))
	seen := map[string]string{} // by lower-case key: the key as it was sent
	for _, t := range pairs {
		k := strings.ToLower(t.key)
		switch {
		case seen[k] != "":
			return sender("InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		case strings.HasPrefix(k, "aws:"):
			return sender("InvalidParameterValue", "Tag keys must not start with the reserved prefix aws:")
		}
		seen[k] = t.key
		in.tags[t.key] = t.value
	}
	for k := range f {
		m := memberRE.FindStringSubmatch(k)
		if m == nil || m[1] != "TransitiveTagKeys" {
			continue
		}
		key := seen[strings.ToLower(f.Get(k))]
		if key == "" {
			return sender("InvalidParameterValue", "The specified transitive tag key must be included in the requested tags.")
		}
		in.transitive = append(in.transitive, key)
	}
	slices.Sort(in.transitive)
	return nil
}

// violations collects what AWS's own validation says before anything else is looked at.
type violations []string

func (v *violations) add(value, field, constraint string) {
	*v = append(*v, fmt.Sprintf("Value '%s' at '%s' failed to satisfy constraint: %s", value, field, constraint))
}

func (v *violations) length(f url.Values, name string, least, most int, required bool) {
	field := strings.ToLower(name[:1]) + name[1:]
	value := f.Get(name)
	switch n := len([]rune(value)); {
	case !f.Has(name):
		if required {
			*v = append(*v, fmt.Sprintf("Value at '%s' failed to satisfy constraint: Member must not be null", field))
		}
	case n < least:
		v.add(value, field, fmt.Sprintf("Member must have length greater than or equal to %d", least))
	case n > most:
		v.add(value, field, fmt.Sprintf("Member must have length less than or equal to %d", most))
	}
}

func (v *violations) pattern(value, field, pattern string, re *regexp.Regexp) {
	if !re.MatchString(value) {
		v.add(value, field, "Member must satisfy regular expression pattern: "+pattern)
	}
}

func (v *violations) err() error {
	if len(*v) == 0 {
		return nil
	}
	plural := "s"
	if len(*v) == 1 {
		plural = ""
	}
	return sender("ValidationError", fmt.Sprintf("%d validation error%s detected: %s", len(*v), plural, strings.Join(*v, "; ")))
}
