package facts_test

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/diagnose"
	"taskrole/internal/facts"
	"taskrole/internal/testkit"
)

// running starts a process whose program, in the tree, is called exe, and looks at it. Its working directory is /app.
func running(t *testing.T, root, exe string, args []string, env ...string) *diagnose.Facts {
	t.Helper()
	testkit.Need(t, testkit.Root)
	os.MkdirAll(filepath.Join(root, "app"), 0o755)
	program := filepath.Join(root, exe)
	if _, err := os.Stat(program); err != nil {
		copyProgram(t, program)
	}
	cmd := exec.Command(program)
	cmd.Args = append([]string{exe}, args...)
	cmd.Env = append(env, waiting+"=0 "+root, quick, "PATH=/usr/local/bin:/usr/bin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p, err := facts.Open(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return p.Look(t.Context())
}

// copyProgram makes this program one of another name.
func copyProgram(t *testing.T, name string) {
	t.Helper()
	os.MkdirAll(filepath.Dir(name), 0o755)
	if self, err := os.Executable(); err == nil && os.Link(self, name) == nil {
		return
	}
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// archive is a zip file with these files in it.
func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSDKsAreFoundInTheFiles(t *testing.T) {
	const python, node, java, ruby, php, dotnet = "usr/bin/python3.11", "usr/local/bin/node", "opt/jre/bin/java", "usr/local/bin/ruby", "usr/local/bin/php-fpm8.2", "usr/bin/dotnet"
	for name, c := range map[string]struct {
		exe   string
		args  []string
		env   []string
		files map[string]string
		want  string // SDK, version and path
	}{
		"pip":           {python, nil, nil, map[string]string{"usr/local/lib/python3.11/site-packages/botocore-1.34.5.dist-info/METADATA": ""}, "botocore 1.34.5 /usr/local/lib/python3.11/site-packages/botocore-1.34.5.dist-info"},
		"Debian":        {python, nil, nil, map[string]string{"usr/lib/python3/dist-packages/botocore-1.29.27.egg-info/PKG-INFO": ""}, "botocore 1.29.27 /usr/lib/python3/dist-packages/botocore-1.29.27.egg-info"},
		"old egg":       {python, nil, nil, map[string]string{"usr/lib/python3/dist-packages/botocore-1.12.0-py3.7.egg-info": ""}, "botocore 1.12.0 /usr/lib/python3/dist-packages/botocore-1.12.0-py3.7.egg-info"},
		"venv before":   {python, nil, []string{"VIRTUAL_ENV=/venv"}, map[string]string{"venv/lib/python3.11/site-packages/botocore-1.40.0.dist-info/x": "", "usr/lib/python3/dist-packages/botocore-1.29.27.egg-info": ""}, "botocore 1.40.0 /venv/lib/python3.11/site-packages/botocore-1.40.0.dist-info"},
		"bundle":        {python, []string{"/var/task/app.py"}, nil, map[string]string{"var/task/botocore/__init__.py": "import os\n__version__ = '1.35.1'\n"}, "botocore 1.35.1 /var/task/botocore/__init__.py"},
		"CLI v2":        {python, []string{"/usr/bin/aws", "s3", "ls"}, nil, map[string]string{"usr/lib/python3/dist-packages/awscli-2.23.6.dist-info/x": ""}, "cli-v2 2.23.6 /usr/lib/python3/dist-packages/awscli-2.23.6.dist-info"},
		"CLI v2 frozen": {"usr/local/aws-cli/v2/2.27.1/dist/aws", []string{"s3", "ls"}, nil, nil, "cli-v2 2.27.1 /usr/local/aws-cli/v2/2.27.1/dist/aws"},
		"no SDK":        {python, nil, nil, map[string]string{"usr/lib/python3/dist-packages/requests-2.0.dist-info": ""}, ""},
		"v2 above":      {node, []string{"--enable-source-maps", "dist/server.js"}, nil, map[string]string{"app/node_modules/aws-sdk/package.json": `{"name": "aws-sdk", "version": "2.1500.0"}`}, "js-v2 2.1500.0 /app/node_modules/aws-sdk"},
		"v3":            {node, []string{"/srv/a/b/main.mjs"}, nil, map[string]string{"srv/node_modules/@aws-sdk/client-s3/package.json": `{"name": "@aws-sdk/client-s3", "version": "3.500.0"}`}, "js-v3 3.500.0 /srv/node_modules/@aws-sdk/client-s3"},
		"not the SDK":   {node, []string{"x.js"}, nil, map[string]string{"app/node_modules/aws-sdk/package.json": `{"name": "other", "version": "1.0"}`, "app/node_modules/@aws-sdk/types/package.json": `{"name": "@aws-sdk/types"}`}, ""},
		"odd version":   {node, []string{"x.js"}, nil, map[string]string{"app/node_modules/aws-sdk/package.json": `{"name": "aws-sdk", "version": "2\u001b[31m"}`}, "js-v2  /app/node_modules/aws-sdk"},
		"class path":    {java, []string{"-cp", "/app/x:/app/lib/*", "Main"}, nil, map[string]string{"app/lib/aws-java-sdk-core-1.12.700.jar": ""}, "java-v1 1.12.700 /app/lib/aws-java-sdk-core-1.12.700.jar"},
		"both":          {java, []string{"-cp", "/app/sdk-core-2.20.1.jar:aws-java-sdk-core-1.11.0.jar", "Main"}, nil, nil, "java-v1 1.11.0 /app/aws-java-sdk-core-1.11.0.jar, java-v2 2.20.1 /app/sdk-core-2.20.1.jar"},
		"Spring":        {java, []string{"-jar", "app.jar"}, nil, map[string]string{"app/app.jar": archive(t, map[string]string{"BOOT-INF/lib/sdk-core-2.25.60.jar": "x"})}, "java-v2 2.25.60 /app/app.jar!/BOOT-INF/lib/sdk-core-2.25.60.jar"},
		"shaded":        {java, []string{"-jar", "app.jar"}, nil, map[string]string{"app/app.jar": archive(t, map[string]string{"META-INF/maven/com.amazonaws/aws-java-sdk-core/pom.properties": "# x\nversion=1.12.1\n"})}, "java-v1 1.12.1 /app/app.jar!/META-INF/maven/com.amazonaws/aws-java-sdk-core/pom.properties"},
		"classes":       {java, []string{"-jar", "app.jar"}, nil, map[string]string{"app/app.jar": archive(t, map[string]string{"software/amazon/awssdk/core/SdkClient.class": ""})}, "java-v2  /app/app.jar!/software/amazon/awssdk/core/SdkClient.class"},
		"no archive":    {java, []string{"-jar", "app.jar"}, nil, map[string]string{"app/app.jar": "PK\x05\x06" + strings.Repeat("\xff", 18)}, ""},
		"gem":           {ruby, nil, []string{"GEM_HOME=/usr/local/bundle"}, map[string]string{"usr/local/bundle/gems/aws-sdk-core-3.190.0/x": ""}, "ruby 3.190.0 /usr/local/bundle/gems/aws-sdk-core-3.190.0"},
		"bundler":       {ruby, nil, nil, map[string]string{"app/vendor/bundle/ruby/3.3.0/gems/aws-sdk-core-3.1.0/x": ""}, "ruby 3.1.0 /app/vendor/bundle/ruby/3.3.0/gems/aws-sdk-core-3.1.0"},
		"Composer":      {php, nil, nil, map[string]string{"var/www/vendor/aws/aws-sdk-php/src/Sdk.php": "class Sdk {\n    const VERSION = '3.300.1';\n"}, "php 3.300.1 /var/www/vendor/aws/aws-sdk-php"},
		"assembly":      {dotnet, []string{"App.dll"}, nil, map[string]string{"app/App.deps.json": `{"libraries": {"AWSSDK.Core/3.7.300": {}}}`}, "dotnet 3.7.300 /app/App.deps.json"},
		"one directory": {"app/App", nil, nil, map[string]string{"app/AWSSDK.Core.dll": ""}, "dotnet  /app/AWSSDK.Core.dll"},
		"in a shell":    {"bin/sh", []string{"-c", "x"}, nil, map[string]string{"usr/lib/python3/dist-packages/botocore-1.29.27.egg-info": "", "usr/lib/node_modules/aws-sdk/package.json": `{"name": "aws-sdk", "version": "2.1.0"}`}, "botocore 1.29.27 /usr/lib/python3/dist-packages/botocore-1.29.27.egg-info, js-v2 2.1.0 /usr/lib/node_modules/aws-sdk"},
	} {
		f := running(t, tree(t, c.files), c.exe, c.args, append(c.env, "HOME=/root")...)
		var got []string
		for _, l := range f.Libraries {
			if strings.ContainsRune(l.Version, 0x1b) {
				t.Errorf("%s: %q", name, l.Version)
			}
			got = append(got, string(l.SDK)+" "+l.Version+" "+l.Path)
		}
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" || len(f.Unseen) > 0 {
			t.Errorf("%s: %q\n%s", name, f.Unseen, diff)
		}
	}
}

// TestTheApplicationBehindAShellIsSearched, and what else lies about is not what it uses.
func TestTheApplicationBehindAShellIsSearched(t *testing.T) {
	root := tree(t, map[string]string{
		"usr/lib/python3/dist-packages/botocore-1.29.27.egg-info": "", "app/node_modules/aws-sdk/package.json": `{"name": "aws-sdk", "version": "2.1.0"}`,
	})
	copyProgram(t, filepath.Join(root, "usr/bin/node"))
	f := running(t, root, "bin/sh", []string{"-c", "node x.js"}, starting+"="+filepath.Join(root, "usr/bin/node"))
	want := []diagnose.Library{{SDK: diagnose.JSv2, Version: "2.1.0", Path: "/app/node_modules/aws-sdk"}}
	if diff := cmp.Diff(want, f.Libraries); diff != "" || !cmp.Equal(f.SDKs, []diagnose.SDK{diagnose.JSv2}) {
		t.Errorf("%v\n%s", f.SDKs, diff)
	}
}

// TestSDKsThatAProgramCanHave where none is found: of its language, or any.
func TestSDKsThatAProgramCanHave(t *testing.T) {
	for exe, want := range map[string][]diagnose.SDK{
		"usr/bin/node": {diagnose.JSv3, diagnose.JSv2}, "usr/bin/python3": {diagnose.Botocore, diagnose.CLIv2}, "usr/bin/other": nil, "bin/bash": nil,
	} {
		if f := running(t, tree(t, nil), exe, nil); !cmp.Equal(f.SDKs, want) || len(f.Libraries) > 0 {
			t.Errorf("%s: %v, %+v; want %v", exe, f.SDKs, f.Libraries, want)
		}
	}
}

// TestSDKsAreSearchedInATreeOfAnEnemy: it is of a container that wants to be read what is outside, or to hold us up.
func TestSDKsAreSearchedInATreeOfAnEnemy(t *testing.T) {
	outside := t.TempDir()
	os.MkdirAll(filepath.Join(outside, "botocore-6.6.6.dist-info"), 0o755)
	os.WriteFile(filepath.Join(outside, "package.json"), []byte(`{"name": "aws-sdk", "version": "6.6.6"}`), 0o644)
	root := tree(t, map[string]string{"usr/lib/python3/x": "", "app/node_modules/x": "", "app/lib/x": ""})
	for link, to := range map[string]string{
		"usr/lib/python3/dist-packages": outside, "usr/lib/python3.9": "/usr/lib/python3.9", "usr/lib/python3.8": strings.Repeat("../", 20) + outside,
		"app/node_modules/aws-sdk": outside, "app/node_modules/@aws-sdk": "/proc/1/root", "usr/lib/python3.7": "/proc/self/root" + outside, "usr/lib/python3.6": "/dev/zero",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(filepath.Join(root, "srv/node_modules/aws-sdk"), 0o755)
	syscall.Mkfifo(filepath.Join(root, "srv/node_modules/aws-sdk/package.json"), 0o644)
	os.MkdirAll(filepath.Join(root, "var/node_modules/aws-sdk"), 0o755)
	syscall.Mknod(filepath.Join(root, "var/node_modules/aws-sdk/package.json"), syscall.S_IFCHR|0o644, 1<<8|5)
	sparse(t, filepath.Join(root, "app/sparse.jar"), "")
	sparse(t, filepath.Join(root, "app/list.jar"), endOfList)
	for i := range 3000 {
		os.Mkdir(filepath.Join(root, "usr/lib", "python"+strings.Repeat("x", 1+i%40)+string(rune('a'+i%26))), 0o755)
	}
	for exe, args := range map[string][]string{
		"usr/bin/python3": nil, "usr/bin/node": {"/srv/x.js", "/var/x.js"}, "usr/bin/java": {"-cp", "/app/sparse.jar:/app/list.jar:/app/lib/*", "Main"},
		"bin/sh": {strings.Repeat("/a", 2000) + "/x.js"},
	} {
		begin := time.Now()
		f := running(t, root, exe, args, "HOME=/root")
		if len(f.Libraries) > 0 {
			t.Errorf("%s: %+v", exe, f.Libraries)
		}
		if d := time.Since(begin); d > 4*time.Second {
			t.Errorf("%s took %v", exe, d)
		}
	}
}

// endOfList is the end of an archive that claims millions of files.
const endOfList = "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x3f\x00\x00\x00\x00\x00\x00"

// sparse makes a file of nearly 1 GiB that takes no room, and ends in a text.
func sparse(t *testing.T, name, end string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(end+"\x00"), 1<<30-int64(len(end))-1); err != nil {
		t.Fatal(err)
	}
	f.Truncate(1<<30 - 1)
}
