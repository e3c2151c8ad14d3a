package config

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"taskrole/internal/arn"
)

// What is allowed at the top of the file.
const (
	allowedTruth    = "true or false"
	allowedAccount  = "exactly 12 digits, with or without quotes"
	allowedRegion   = "the name of an AWS region, such as eu-central-1"
	allowedPath     = "an absolute path without . and .. in it"
	allowedEngine   = "unix:///path/of/the/socket, or none"
	allowedEndpoint = "http://host[:port] or https://host[:port], and nothing link-local"
	allowedCalls    = "a number above 0 and up to 1000"
	allowedRoles    = "a mapping of role names to roles, with one at least"
)

// config reads the whole document.
func (w *walker) config(root *yaml.Node) *Config {
	c := defaults(w.file)
	var roles *yaml.Node
	seen := w.mapping(root, "", []field{
		{"account", func(n *yaml.Node, p string) { c.Account = w.account(n, p) }},
		{"region", func(n *yaml.Node, p string) { c.Region = value(w, n, p, allowedRegion, region) }},
		{"socket", func(n *yaml.Node, p string) { c.Socket = value(w, n, p, allowedSocket, socketPath) }},
		{"runtime", func(n *yaml.Node, p string) { c.Runtime = value(w, n, p, allowedPath, absolute) }},
		{"cdi", func(n *yaml.Node, p string) {
			w.mapping(n, p, []field{
				{"dir", func(n *yaml.Node, p string) { c.CDI.Dir = value(w, n, p, allowedPath, absolute) }},
			})
		}},
		{"engines", func(n *yaml.Node, p string) {
			w.mapping(n, p, []field{
				{"docker", func(n *yaml.Node, p string) { w.engine(&c.Docker, n, p) }},
				{"podman", func(n *yaml.Node, p string) { w.engine(&c.Podman, n, p); c.NoPodman = c.Podman == "" }},
			})
		}},
		{"late", func(n *yaml.Node, p string) { c.Late = w.truth(n, p) }},
		{"sts", func(n *yaml.Node, p string) {
			w.mapping(n, p, []field{
				{"endpoint", func(n *yaml.Node, p string) { c.STS.Endpoint = value(w, n, p, allowedEndpoint, endpoint) }},
				{"calls_per_second", func(n *yaml.Node, p string) { c.STS.CallsPerSecond = w.calls(n, p) }},
			})
		}},
		{"metadata", func(n *yaml.Node, p string) { w.metadata(c, n, p) }},
		{"guard", func(n *yaml.Node, p string) { w.guard(c, n, p) }},
		{"roles", func(n *yaml.Node, _ string) { roles = n }},
	})
	if len(c.Guard.Names) > 0 && c.Docker == "" {
		w.add(seen["guard"], "guard.except", "names need an engine, and engines.docker is none", "networks, or an engine")
	}
	switch {
	case roles != nil:
		// After all else: a role without arn needs the account, wherever in the file it stands.
		w.roles(c, roles, seen)
	case root.Kind == yaml.MappingNode && seen["roles"] == nil:
		w.add(root, "roles", "no roles are given, so the agent has nothing to do", allowedRoles)
	}
	return c
}

func (w *walker) roles(c *Config, n *yaml.Node, top map[string]*yaml.Node) {
	w.entries(n, "roles", allowedRoles, func(key, value *yaml.Node, path string) {
		c.Roles = append(c.Roles, w.role(c, key, value, path, top))
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		w.add(n, "roles", "there are no roles", allowedRoles)
	}
	slices.SortFunc(c.Roles, func(a, b Role) int { return cmp.Compare(a.Name, b.Name) })
}

// account takes the digits as they stand in the file. To YAML 012345678901 is a number, even an octal one where its
// digits allow it; the text of the node is what was written.
func (w *walker) account(n *yaml.Node, path string) arn.AccountID {
	if !w.is(n, path, yaml.ScalarNode, allowedAccount) {
		return ""
	}
	return parsed(w, n, path, allowedAccount, n.Value, arn.ParseAccountID)
}

func (w *walker) calls(n *yaml.Node, path string) float64 {
	if !w.is(n, path, yaml.ScalarNode, allowedCalls) {
		return 0
	}
	if tag := n.ShortTag(); tag != "!!int" && tag != "!!float" {
		w.add(n, path, quote(n.Value)+" is "+kind(n)+" to YAML", allowedCalls)
		return 0
	}
	return parsed(w, n, path, allowedCalls, n.Value, func(s string) (float64, error) {
		const most = 1000
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v > 0 && v <= most) { // so that NaN is out as well
			return 0, errors.New(quote(s) + " is not such a number")
		}
		return v, nil
	})
}

// maxSocket is sun_path of sockaddr_un, less the closing zero (unix(7)).
const maxSocket = 107

var allowedSocket = allowedPath + ", of at most " + strconv.Itoa(maxSocket) + " bytes"

func socketPath(s string) (string, error) {
	if len(s) > maxSocket {
		return "", fmt.Errorf("%s has %d bytes: the kernel takes no such path for a socket", quote(s), len(s))
	}
	return absolute(s)
}

func absolute(s string) (string, error) {
	const most = 4095 // PATH_MAX less the closing zero
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return "", errors.New(quote(s) + " is not an absolute path in its shortest form")
	}
	return s, nil
}

// engine leaves the default where the value is wrong, so that the rules are not blamed for a missing engine.
func (w *walker) engine(to *string, n *yaml.Node, path string) {
	switch s := value(w, n, path, allowedEngine, engineSocket); s {
	case "":
	case noEngine:
		*to = ""
	default:
		*to = s
	}
}

const noEngine = "none"

func engineSocket(s string) (string, error) {
	if s == noEngine {
		return s, nil
	}
	p, ok := strings.CutPrefix(s, "unix://")
	if !ok {
		return "", errors.New(quote(s) + " is not the address of a unix socket: what an engine says decides who may hold a role, so it must not come over a network")
	}
	if _, err := socketPath(p); err != nil {
		return "", err
	}
	return s, nil
}
