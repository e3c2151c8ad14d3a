package facts

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"

	"taskrole/internal/diagnose"
)

// python looks where Python looks for modules, in its order: botocore is what has the chain, boto3 and version 1 of the
// command line are made of it, and version 2 brings its own.
func (g *program) python() {
	for _, dir := range g.pythonPath() {
		names := g.list(dir)
		for _, n := range names {
			name, version, ok := distribution(n)
			switch {
			case !ok:
			case name == "botocore":
				g.has(diagnose.Botocore, version, path.Join(dir, n))
			case name == "awscli" && !strings.HasPrefix(version, "1."):
				g.has(diagnose.CLIv2, version, path.Join(dir, n))
			}
		}
		// A copy without its metadata, as bundles for functions are.
		if slices.Contains(names, "botocore") && !g.hasAny(diagnose.Botocore) {
			init := path.Join(dir, "botocore/__init__.py")
			if m := pythonVersionRE.FindSubmatch(g.read(init)); m != nil {
				g.has(diagnose.Botocore, string(m[1]), init)
			}
		}
		// Version 1 of the command line may carry its own copy; its user agent is botocore's.
		if slices.Contains(names, "awscli") && !g.hasAny(diagnose.Botocore, diagnose.CLIv2) {
			init := path.Join(dir, "awscli/botocore/__init__.py")
			if m := pythonVersionRE.FindSubmatch(g.read(init)); m != nil {
				g.has(diagnose.Botocore, string(m[1]), init)
			}
		}
	}
}

var pythonVersionRE = regexp.MustCompile(`(?m)^__version__ = ['"]([0-9][0-9.]*)`)

// distribution takes the name of a package's metadata apart: botocore-1.34.0.dist-info, -1.29.27.egg-info, -py3.11.egg-info.
func distribution(s string) (name, version string, ok bool) {
	s, ok = strings.CutSuffix(s, ".dist-info")
	if !ok {
		if s, ok = strings.CutSuffix(s, ".egg-info"); !ok {
			return "", "", false
		}
	}
	name, version, ok = strings.Cut(s, "-")
	version, _, _ = strings.Cut(version, "-py")
	return strings.ToLower(name), version, ok
}

// pythonPath are the directories of modules, the first first.
func (g *program) pythonPath() []string {
	dirs := slices.Concat(g.listed("PYTHONPATH"), g.scripts())
	var prefixes []string
	if v := g.env["VIRTUAL_ENV"]; v != "" {
		prefixes = append(prefixes, g.absolute(v))
	}
	if len(g.args) > 0 && path.IsAbs(g.args[0]) { // of a virtual environment, whose python is a link
		prefixes = append(prefixes, path.Dir(path.Dir(g.args[0])))
	}
	for _, bin := range g.listed("PATH") {
		prefixes = append(prefixes, path.Dir(bin))
	}
	if path.IsAbs(g.exe) {
		prefixes = append(prefixes, path.Dir(path.Dir(g.exe)))
	}
	prefixes = append(prefixes, path.Join(g.home, ".local"), "/usr/local", "/usr")
	var seen []string
	for _, prefix := range prefixes {
		if prefix = path.Clean(prefix); slices.Contains(seen, prefix) {
			continue
		}
		seen = append(seen, prefix)
		for _, lib := range []string{"lib", "lib64"} {
			for _, n := range g.list(path.Join(prefix, lib)) {
				if strings.HasPrefix(n, "python") {
					dirs = append(dirs, path.Join(prefix, lib, n, "site-packages"), path.Join(prefix, lib, n, "dist-packages"))
				}
			}
		}
	}
	return dirs
}

// node looks for node_modules beside the script, in the working directory, and in all directories above them.
func (g *program) node() {
	var dirs []string
	for _, start := range g.scripts() {
		for _, dir := range upwards(start) {
			if modules := path.Join(dir, "node_modules"); path.Base(dir) != "node_modules" && !slices.Contains(dirs, modules) {
				dirs = append(dirs, modules)
			}
		}
	}
	dirs = append(dirs, g.listed("NODE_PATH")...)
	dirs = append(dirs, "/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs")
	for _, dir := range dirs {
		if version, ok := g.packageVersion(path.Join(dir, "aws-sdk")); ok {
			g.has(diagnose.JSv2, version, path.Join(dir, "aws-sdk"))
		}
		if !g.hasAny(diagnose.JSv3) {
			g.scoped(path.Join(dir, "@aws-sdk"))
		}
	}
}

// scoped looks at the packages of JavaScript's version 3, which are many.
func (g *program) scoped(dir string) {
	names := g.list(dir)
	slices.Sort(names) // client-… before core, credential-provider-node, …
	for _, n := range names {
		if n != "credential-provider-node" && n != "core" && !strings.HasPrefix(n, "client-") {
			continue
		}
		if version, ok := g.packageVersion(path.Join(dir, n)); ok {
			g.has(diagnose.JSv3, version, path.Join(dir, n))
			return
		}
	}
}

func (g *program) packageVersion(dir string) (string, bool) {
	var doc struct{ Name, Version string }
	b := g.read(path.Join(dir, "package.json"))
	if b == nil || json.Unmarshal(b, &doc) != nil {
		return "", false
	}
	return doc.Version, strings.Contains(doc.Name, "aws-sdk")
}

// ruby looks for the gem that has the chain.
func (g *program) ruby() {
	roots := slices.Concat(g.listed("GEM_HOME"), g.listed("BUNDLE_PATH"), g.listed("GEM_PATH"))
	for _, dir := range g.scripts() {
		roots = append(roots, path.Join(dir, "vendor/bundle"))
	}
	roots = append(roots, "/usr/local/bundle", "/usr/share/rubygems-integration/all", path.Join(g.home, ".gem"), path.Join(g.home, ".local/share/gem"))
	for _, dir := range []string{"/usr/local/lib/ruby/gems", "/usr/lib/ruby/gems", "/var/lib/gems", "/usr/share/rubygems-integration"} {
		roots = append(roots, g.below(dir)...)
	}
	for _, root := range roots {
		for _, dir := range append([]string{root}, g.below(path.Join(root, "ruby"))...) { // bundler's: ruby/3.3.0
			for _, n := range g.list(path.Join(dir, "gems")) {
				if version, ok := strings.CutPrefix(n, "aws-sdk-core-"); ok {
					g.has(diagnose.Ruby, version, path.Join(dir, "gems", n))
				}
			}
		}
	}
}

// below are the first names in a directory.
func (g *program) below(dir string) (all []string) {
	const most = 20
	for _, n := range g.list(dir) {
		if len(all) < most {
			all = append(all, path.Join(dir, n))
		}
	}
	return all
}

var phpVersionRE = regexp.MustCompile(`const VERSION = '([0-9][0-9.]*)'`)

// php looks for Composer's directory beside the script, in the working directory and where web servers have theirs.
func (g *program) php() {
	starts := append(g.scripts(), "/var/www/html", "/var/www", "/app", "/srv")
	for _, start := range starts {
		for _, dir := range upwards(start) {
			source := path.Join(dir, "vendor/aws/aws-sdk-php/src/Sdk.php")
			if b := g.read(source); b != nil {
				version := ""
				if m := phpVersionRE.FindSubmatch(b); m != nil {
					version = string(m[1])
				}
				g.has(diagnose.PHP, version, path.Dir(path.Dir(source)))
				return
			}
		}
	}
}
