package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"taskrole/internal/arn"
	"taskrole/internal/container"
)

const (
	allowedSession = "A-Z a-z 0-9 _ + = , . @ - and {id} {name} {role} {host}"
	maxSession     = 64 // of STS
	idWidth        = 24 // most that {id} takes
)

var (
	sessionPartRE    = regexp.MustCompile(`\{[^{}]*\}|[^{}]+|[{}]`)
	sessionLiteralRE = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]+$`)
)

// checkTemplate returns the template if every session made of it can be valid.
func checkTemplate(s string) (string, error) {
	width := 0
	for _, part := range sessionPartRE.FindAllString(s, -1) {
		switch {
		case part == "{id}":
			width += idWidth
		case part == "{name}" || part == "{role}" || part == "{host}":
			width++
		case part[0] == '{' || part[0] == '}':
			return "", fmt.Errorf("there is no placeholder %s", quote(part))
		case !sessionLiteralRE.MatchString(part):
			return "", fmt.Errorf("%s has characters that STS refuses", quote(part))
		default:
			width += len(part)
		}
	}
	if width > maxSession || width < 2 && !strings.Contains(s, "{") {
		return "", fmt.Errorf("%s makes names of %d characters at least: STS takes 2 to %d", quote(s), width, maxSession)
	}
	return s, nil
}

// SessionName expands the role's session template for a container on this host. The container's id survives whole;
// where the name gets too long for STS, the longest of the other parts is cut. Characters that STS refuses become -;
// where nothing else is left, the id stands for all.
func (r Role) SessionName(c container.Container, host string) (string, error) {
	parts := sessionPartRE.FindAllString(r.Session, -1)
	var cuttable []int
	length := 0
	for i, part := range parts {
		switch part {
		case "{id}":
			parts[i] = sessionID(c.ID)
		case "{name}":
			parts[i], cuttable = c.Title(), append(cuttable, i)
		case "{role}":
			parts[i], cuttable = r.Name, append(cuttable, i)
		case "{host}":
			parts[i], cuttable = host, append(cuttable, i)
		}
		length += len(parts[i])
	}
	for ; length > maxSession; length-- {
		longest := -1
		for _, i := range cuttable {
			if longest < 0 || len(parts[i]) > len(parts[longest]) {
				longest = i
			}
		}
		if longest < 0 || parts[longest] == "" {
			return "", errors.New("make a session name of " + quote(r.Session) + ": it is too long")
		}
		parts[longest] = parts[longest][:len(parts[longest])-1]
	}
	whole := strings.Join(parts, "")
	name, err := arn.SessionName(whole)
	if err != nil {
		// {name} or {host} had nothing that STS takes, or the role is called by one letter: the id will do.
		name, err = arn.SessionName(strings.TrimLeft(whole[:min(len(whole), maxSession-idWidth-1)]+"-"+sessionID(c.ID), "-"))
	}
	if err != nil {
		return "", fmt.Errorf("make a session name of %s: %w", quote(r.Session), err)
	}
	return name, nil
}

// sessionID is the short id of a container where ids are random, so that people find it in docker ps. Other ids are
// taken whole, or told apart by a hash when they are long: two pods of one name must not share a session.
func sessionID(id container.ID) string {
	s := string(id)
	if raw, err := hex.DecodeString(s); err == nil && len(raw) == sha256.Size {
		return id.Short()
	}
	if len(s) <= idWidth {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	const head, tail = 11, 6 // 11 characters, a dash, 12 digits: idWidth
	return s[:head] + "-" + hex.EncodeToString(sum[:tail])
}
