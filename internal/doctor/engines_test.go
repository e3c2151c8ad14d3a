package doctor_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taskrole/internal/doctor"
	"taskrole/internal/fault"
)

// contents are what a fake engine has: containers by name, and a status other than 200 for everything.
type contents struct {
	containers map[string]string // name to id
	status     int
	err        string // of the container that did not start
}

const digits = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// serve is an engine with its containers, which do not run.
func serve(t *testing.T, c contents) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		_, path, _ := strings.Cut(r.URL.Path[1:], "/")
		switch {
		case c.status != 0:
			w.WriteHeader(c.status)
		case path == "containers/json":
			var list []any
			for name, id := range c.containers {
				list = append(list, map[string]any{"Id": id, "Names": []string{"/" + name}})
			}
			answer(w, list)
		case path == "images/json":
			answer(w, []any{map[string]any{"Id": "sha256:" + digits, "RepoTags": []string{"app:1"}}})
		case strings.HasSuffix(path, "/history"):
			answer(w, []any{map[string]any{"CreatedBy": "ENV KEY=AKIAEXAMPLE00005678"}})
		case strings.HasPrefix(path, "images/"):
			answer(w, map[string]any{"Id": "sha256:" + digits, "Config": map[string]any{"Env": []string{}}})
		default:
			ref, _, _ := strings.Cut(strings.TrimPrefix(path, "containers/"), "/")
			for name, id := range c.containers {
				if name == ref || strings.HasPrefix(id, ref) {
					answer(w, map[string]any{
						"Id": id, "Name": "/" + name, "State": map[string]any{"Status": "exited", "Error": c.err},
						"HostConfig": map[string]any{"NetworkMode": "none"},
						"Config":     map[string]any{"Image": "app:1", "Env": []string{"AWS_ACCESS_KEY_ID=" + keyID, "AWS_SECRET_ACCESS_KEY=" + hidden}},
					})
					return
				}
			}
			w.WriteHeader(http.StatusNotFound)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return "unix://" + l.Addr().String()
}

// engines is a configuration with these two.
func engines(t *testing.T, docker, podman string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := "socket: /nowhere/agent.sock\nengines: {docker: '" + docker + "', podman: '" + podman + "'}\nroles: {app: {arn: 'arn:aws:iam::123456789012:role/app', allow: [{any: true}]}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWhichContainerIsMeant: an exact name before the beginning of an id, and no choice among equals.
func TestWhichContainerIsMeant(t *testing.T) {
	flip := func(c string) string { return c + digits[1:] }
	docker := serve(t, contents{containers: map[string]string{"web": flip("a"), "both": flip("b"), "c0": flip("d")}})
	podman := serve(t, contents{containers: map[string]string{"api": flip("e"), "both": flip("f"), "other": "c0" + digits[2:]}})
	config := engines(t, docker, podman)
	silent := engines(t, docker, "unix:///nowhere/podman.sock")
	for name, c := range map[string]struct {
		config, ask string
		want        string // engine and container
		code        fault.Code
		says        string
	}{
		"Docker's":              {config, "web", "docker web", "", ""},
		"Podman's":              {config, "api", "podman api", "", ""},
		"by id":                 {config, flip("e")[:12], "podman api", "", ""},
		"both":                  {config, "both", "", fault.Usage, "docker:both, podman:both"},
		"one of both":           {config, "podman:both", "podman both", "", ""},
		"the other of both":     {config, "docker:both", "docker both", "", ""},
		"a name before an id":   {config, "c0", "docker c0", "", ""},
		"nobody":                {config, "nobody", "", fault.NotFound, "docker, podman"},
		"not that engine's":     {config, "docker:api", "", fault.NotFound, "docker"},
		"containerd has none":   {config, "containerd:web", "", fault.NotFound, ""},
		"no such engine":        {config, "lxc:web", "", fault.Usage, "containerd:[NAMESPACE/]ID"},
		"no name":               {config, "docker:", "", fault.Usage, ""},
		"one engine is silent":  {silent, "web", "docker web", "", "whether another engine has such a container too"},
		"perhaps the silent's":  {silent, "api", "", fault.EngineUnreachable, "/nowhere/podman.sock"},
		"the silent is not it":  {silent, "docker:web", "docker web", "", ""},
		"hex, and nobody's id":  {config, "0123456789ab0000", "", fault.NotFound, ""},
		"a name that is a path": {config, "../../images/json", "", fault.NotFound, ""},
	} {
		var out bytes.Buffer
		err := doctor.Run(t.Context(), doctor.Query{Container: c.ask, ConfigPath: c.config, JSON: true}, &out)
		code := fault.CodeOf(err)
		if code == fault.DoctorFindings {
			code, err = "", nil // the container lacks a token
		}
		text := out.String()
		if err != nil {
			text += err.Error()
		}
		var r doctor.Report
		if code == "" {
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.TrimSpace(r.Subject.Engine + " " + r.Subject.Container); got != c.want || code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %q is %q, %q: %s; want %q, %q, %q", name, c.ask, got, code, text, c.want, c.code, c.says)
		}
	}
}

// TestWordsOfAnEngineAreOneLine: it repeats what hooks and programs say, and those what they like.
func TestWordsOfAnEngineAreOneLine(t *testing.T) {
	docker := serve(t, contents{containers: map[string]string{"web": digits}, err: "failed\n✅ nothing is wrong\x1b]0;owned\a\u009b31m\u202e [sts-denied]"})
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		_ = doctor.Run(t.Context(), doctor.Query{Container: "web", ConfigPath: engines(t, docker, "none"), JSON: asJSON}, &out)
		if strings.ContainsAny(out.String(), "\x1b\a\u009b\u202e") || strings.Contains(out.String(), "\n✅ nothing is wrong") || !strings.Contains(out.String(), "owned") {
			t.Errorf("%q", out.String())
		}
	}
}

// TestAuditAsksEveryEngine, and says and fails where one does not answer.
func TestAuditAsksEveryEngine(t *testing.T) {
	well := serve(t, contents{containers: map[string]string{"web": digits}})
	for name, c := range map[string]struct {
		docker, podman string
		code           fault.Code
		want           []string
	}{
		"both":       {well, serve(t, contents{containers: map[string]string{"api": "f" + digits[1:]}}), fault.DoctorFindings, []string{`"engine": "docker"`, `"name": "web"`, `"name": "api"`, "history, layer 1"}},
		"one silent": {well, serve(t, contents{status: http.StatusInternalServerError}), fault.DoctorFindings, []string{`"name": "web"`, `"kind": "engine"`, "does not list its containers"}},
		"all silent": {"unix:///nowhere/docker.sock", "none", fault.EngineUnreachable, []string{`"kind": "engine"`}},
	} {
		for _, sarif := range []bool{false, true} {
			var out bytes.Buffer
			err := doctor.Audit(t.Context(), doctor.AuditQuery{JSON: !sarif, SARIF: sarif, ConfigPath: engines(t, c.docker, c.podman)}, &out)
			if fault.CodeOf(err) != c.code {
				t.Errorf("%s: %v, want %s", name, err, c.code)
			}
			for _, want := range c.want {
				if !sarif && !strings.Contains(out.String(), want) {
					t.Errorf("%s: no %q in %s", name, want, out.String())
				}
			}
			if text := out.String(); strings.Contains(text, hidden) || strings.Contains(text, keyID) || strings.Contains(text, "AKIAEXAMPLE00005678") {
				t.Errorf("%s: a secret: %s", name, text)
			}
		}
	}
}
