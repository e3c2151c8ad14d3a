package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"taskrole/internal/fault"
	"taskrole/internal/jsontext"
)

const (
	daemonPath = "/etc/docker/daemon.json"
	maxDaemon  = 1 << 20 // files of some hundred bytes are usual
	// runtimeName is what containers name with --runtime.
	runtimeName = "taskrole"
)

// edit is one member that setup put into daemon.json, so that it can be taken out again when somebody has changed the
// file since.
type edit struct {
	Path []string `json:"path"`
	Was  string   `json:"was,omitempty"` // the value's text before; "" is none
	Now  string   `json:"now"`
}

// merge puts runtime, the path of taskrole-runtime, and where cdi says so the switch for CDI, into the text of
// daemon.json. Nothing else of it changes. Edits are none where all is there already.
func merge(doc []byte, runtime string, cdi bool) ([]byte, []edit, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		doc = []byte("{}\n")
	}
	if err := jsontext.Check(doc, maxDaemon); err != nil {
		return nil, nil, daemonInvalid(err)
	}
	var edits []edit
	there, err := hasRuntime(doc, runtime)
	if err != nil {
		return nil, nil, err
	}
	if !there {
		if doc, edits, err = set(doc, edits, "runtimes", runtimeName, runtimeValue(runtime)); err != nil {
			return nil, nil, err
		}
	}
	if !cdi {
		return doc, edits, nil
	}
	_, p, err := locate(doc, "features", "cdi")
	switch {
	case err != nil:
		return nil, nil, err
	case p.Is(doc, 't'):
		return doc, edits, nil
	case p.Found && !p.Is(doc, 'f'):
		return nil, nil, daemonInvalid(errors.New("its member features.cdi is neither true nor false"))
	}
	return set(doc, edits, "features", "cdi", "true")
}

// locate finds a member, and the object it is in. What is absent is not an error, what is no object is.
func locate(doc []byte, path ...string) (parent, p jsontext.Place, err error) {
	p = jsontext.Place{Found: true}
	for i, name := range path {
		parent = p
		if p, err = jsontext.Find(doc, parent.Start, name); err != nil {
			return parent, p, daemonInvalid(err)
		}
		if !p.Found || p.Is(doc, 'n') && i < len(path)-1 {
			return parent, jsontext.Place{}, nil
		}
		if i < len(path)-1 && !p.Is(doc, '{') {
			return parent, p, daemonInvalid(fmt.Errorf("its member %s is not an object", strings.Join(path[:i+1], ".")))
		}
	}
	return parent, p, nil
}

func runtimeValue(path string) string {
	text, err := json.Marshal(path)
	if err != nil {
		return "" // a string can always be written
	}
	return `{"path": ` + string(text) + `}`
}

// hasRuntime says whether the runtime is there as it should be. One that is there with another path is ours if its
// program is called so, or if an earlier setup --remove left it as another name of runc; else it is a fault.
func hasRuntime(doc []byte, runtime string) (bool, error) {
	p, err := jsontext.Descend(doc, '{', "runtimes", runtimeName)
	if err != nil {
		return false, daemonInvalid(err)
	}
	if !p.Found {
		return false, nil
	}
	var is struct {
		Path        string `json:"path"`
		RuntimeType string `json:"runtimeType"`
	}
	if err := json.Unmarshal(doc[p.Start:p.End], &is); err != nil {
		return false, daemonInvalid(fmt.Errorf("its member runtimes.%s is of the wrong kind", runtimeName))
	}
	if is.RuntimeType != "" || is.Path != "runc" && filepath.Base(is.Path) != filepath.Base(runtime) {
		return false, fault.New(fault.SetupConflict,
			fmt.Sprintf("%s already has a runtime called %s, and it is another program: %s", daemonPath, runtimeName, jsontext.Quote(is.Path+is.RuntimeType)),
			"give that runtime another name, or remove it; nothing was changed")
	}
	return is.Path == runtime, nil
}

// set puts object.name into doc, and the object where it is not there, and adds what it did to edits.
func set(doc []byte, edits []edit, object, name, value string) ([]byte, []edit, error) {
	p, err := jsontext.Find(doc, 0, object)
	if err != nil {
		return nil, nil, daemonInvalid(err)
	}
	switch {
	case !p.Found:
		doc = jsontext.Add(doc, 0, object, []byte("{}"))
		edits = append(edits, edit{Path: []string{object}, Now: "{}"})
	case p.Is(doc, 'n'): // null, which Docker takes for nothing
		edits = append(edits, edit{Path: []string{object}, Was: "null", Now: "{}"})
		doc = slices.Concat(doc[:p.Start], []byte("{}"), doc[p.End:])
	case !p.Is(doc, '{'):
		return nil, nil, daemonInvalid(fmt.Errorf("its member %s is not an object", object))
	}
	if p, err = jsontext.Find(doc, 0, object); err != nil {
		return nil, nil, daemonInvalid(err)
	}
	v, err := jsontext.Find(doc, p.Start, name)
	if err != nil {
		return nil, nil, daemonInvalid(err)
	}
	e := edit{Path: []string{object, name}, Now: value}
	if v.Found {
		e.Was = string(doc[v.Start:v.End])
		doc = slices.Concat(doc[:v.Start], []byte(value), doc[v.End:])
	} else {
		doc = jsontext.Add(doc, p.Start, name, []byte(value))
	}
	return doc, append(edits, e), nil
}

// undo takes the edits back out of a file that somebody has changed since. What is no longer as setup wrote it stays;
// left names it.
func undo(doc []byte, edits []edit) (out []byte, left []string, err error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return doc, nil, nil
	}
	if err := jsontext.Check(doc, maxDaemon); err != nil {
		return nil, nil, daemonInvalid(err)
	}
	for _, e := range slices.Backward(edits) {
		parent, p, err := locate(doc, e.Path...)
		if err != nil {
			return nil, nil, err
		}
		name := e.Path[len(e.Path)-1]
		switch {
		case !p.Found: // somebody took it out
		case !sameJSON(doc[p.Start:p.End], e.Now):
			if len(e.Path) > 1 { // an object that holds more than ours is no news
				left = append(left, strings.Join(e.Path, "."))
			}
		case e.Was == "":
			doc = jsontext.Remove(doc, parent.Start, name)
		default:
			doc = slices.Concat(doc[:p.Start], []byte(e.Was), doc[p.End:])
		}
	}
	return doc, left, nil
}

// sameJSON compares without white space: editors and tools put files into another form.
func sameJSON(a []byte, b string) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, []byte(b)) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// defaultRuntime says whether new containers get our runtime without asking.
func defaultRuntime(doc []byte) bool {
	if jsontext.Check(doc, maxDaemon) != nil {
		return false // an empty file
	}
	p, err := jsontext.Descend(doc, '"', "default-runtime")
	return err == nil && p.Found && jsontext.Text(doc[p.Start:p.End]) == runtimeName
}

func daemonInvalid(err error) error {
	return fault.Wrap(err, fault.DaemonConfigInvalid, fmt.Sprintf("%s cannot be edited: %s", daemonPath, err.Error()),
		`correct the file ("dockerd --validate" looks at it); nothing was changed`)
}
