package facts

import (
	"archive/zip"
	"bufio"
	"encoding/json"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"taskrole/internal/diagnose"
)

// Java's archives are called after what they hold. Of version 2 several parts have the chain, and a bundle has all.
var (
	javaV1RE = regexp.MustCompile(`^aws-java-sdk-(?:core|bundle|osgi)-([0-9][0-9A-Za-z.]*)\.jar$`)
	javaV2RE = regexp.MustCompile(`^(?:sdk-core|aws-core|bundle)-(2\.[0-9][0-9A-Za-z.]*)\.jar$`)
)

// What an archive holds that was made of others.
const (
	javaV1Class = "com/amazonaws/auth/AWSCredentials.class"
	javaV2Class = "software/amazon/awssdk/core/SdkClient.class"
	javaV1About = "META-INF/maven/com.amazonaws/aws-java-sdk-core/pom.properties"
	javaV2About = "META-INF/maven/software.amazon.awssdk/sdk-core/pom.properties"
)

// java looks at the archives on the class path and those that the process holds open.
func (g *program) java() {
	jars := g.classPath()
	for _, f := range g.open {
		if strings.HasSuffix(f, ".jar") || strings.HasSuffix(f, ".war") {
			jars = append(jars, f)
		}
	}
	slices.Sort(jars)
	jars = slices.Compact(jars)
	for _, jar := range jars {
		g.javaName(jar, jar)
	}
	const most = 64 // of archives whose contents are looked at
	for n, jar := range jars {
		if n < most && !g.hasAny(diagnose.JavaV1, diagnose.JavaV2) {
			g.javaArchive(jar)
		}
	}
}

// javaName goes by the name of an archive.
func (g *program) javaName(name, where string) {
	if m := javaV1RE.FindStringSubmatch(path.Base(name)); m != nil {
		g.has(diagnose.JavaV1, m[1], where)
	}
	if m := javaV2RE.FindStringSubmatch(path.Base(name)); m != nil {
		g.has(diagnose.JavaV2, m[1], where)
	}
}

// classPath are the archives that the command line and the environment name.
func (g *program) classPath() (jars []string) {
	entries := g.listed("CLASSPATH")
	for i, a := range g.args {
		if i+1 >= len(g.args) {
			break
		}
		switch a {
		case "-cp", "-classpath", "--class-path", "-p", "--module-path":
			for e := range strings.SplitSeq(g.args[i+1], ":") {
				entries = append(entries, g.absolute(e))
			}
		case "-jar":
			entries = append(entries, g.absolute(g.args[i+1]))
		}
	}
	for _, e := range entries {
		if strings.HasSuffix(e, ".jar") || strings.HasSuffix(e, ".war") {
			jars = append(jars, e)
			continue
		}
		dir := strings.TrimSuffix(e, "/*")
		for _, n := range g.list(dir) {
			if strings.HasSuffix(n, ".jar") {
				jars = append(jars, path.Join(dir, n))
			}
		}
	}
	return jars
}

// maxArchive bounds an archive whose list is read: a list may claim to be as long as its file allows.
const maxArchive = 1 << 30

// javaArchive looks at the list of an archive that holds others, or the classes of others.
func (g *program) javaArchive(name string) {
	f, err := g.tree.open(name)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil || st.Size() > maxArchive {
		return
	}
	list := *g.tree
	list.bytes = min(list.bytes, maxList)
	z, err := zip.NewReader(&bounded{File: f.File, tree: &list}, st.Size())
	g.bytes -= min(g.bytes, maxList) - list.bytes
	if err != nil {
		return
	}
	for _, e := range z.File {
		inside := name + "!/" + e.Name
		g.javaName(e.Name, inside)
		switch e.Name {
		case javaV1About:
			g.has(diagnose.JavaV1, about(e), inside)
		case javaV2About:
			g.has(diagnose.JavaV2, about(e), inside)
		}
	}
	for _, e := range z.File {
		switch e.Name {
		case javaV1Class:
			g.has(diagnose.JavaV1, "", name+"!/"+e.Name)
		case javaV2Class:
			g.has(diagnose.JavaV2, "", name+"!/"+e.Name)
		}
	}
}

// maxList bounds the list of an archive, whose entries take several times their length in memory.
const maxList = 16 << 20

// about reads the version out of Maven's properties.
func about(e *zip.File) string {
	const most = 4096
	r, err := e.Open()
	if err != nil {
		return ""
	}
	defer func() { _ = r.Close() }() // only read
	for s := bufio.NewScanner(io.LimitReader(r, most)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "version="); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// dotnet looks beside the program, or the assembly that dotnet runs, for what it was made of.
func (g *program) dotnet() {
	dirs := g.scripts()
	if path.IsAbs(g.exe) {
		dirs = append(dirs, path.Dir(g.exe))
	}
	for _, dir := range dirs {
		if dir == "/" || dir == "/usr/bin" || dir == "/bin" {
			continue
		}
		names := g.list(dir)
		for _, n := range names {
			if strings.HasSuffix(n, ".deps.json") {
				g.deps(path.Join(dir, n))
			}
		}
		if slices.Contains(names, "AWSSDK.Core.dll") {
			g.has(diagnose.DotNet, "", path.Join(dir, "AWSSDK.Core.dll"))
		}
	}
	for _, f := range g.open {
		if path.Base(f) == "AWSSDK.Core.dll" {
			g.has(diagnose.DotNet, "", f)
		}
	}
}

func (g *program) deps(name string) {
	var doc struct {
		Libraries map[string]json.RawMessage
	}
	if json.Unmarshal(g.read(name), &doc) != nil {
		return
	}
	for library := range doc.Libraries {
		if version, ok := strings.CutPrefix(library, "AWSSDK.Core/"); ok {
			g.has(diagnose.DotNet, version, name)
		}
	}
}
