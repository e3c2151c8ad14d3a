package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds the file: some thousand roles.
const maxSize = 1 << 20

// Load reads the file at path. The error is of type Problems.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		p := Problem{File: path, What: err.Error()}
		if cause, ok := errors.AsType[*fs.PathError](err); ok {
			p.What = cause.Err.Error() // without the path, which the problem names already
		}
		if errors.Is(err, fs.ErrNotExist) {
			p.What, p.Allowed = "there is no such file", "a file as examples/config.yaml shows it, or another path with --config"
		}
		return nil, Problems{p}
	}
	return Parse(path, data)
}

func read(path string) (data []byte, err error) {
	// Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("this is not a regular file"))
	}
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// Parse reads data; file is its name in messages. The error is of type Problems.
func Parse(file string, data []byte) (*Config, error) {
	w := &walker{file: file}
	root := w.document(data)
	if root == nil {
		return nil, w.problems.sorted()
	}
	w.plain(root, "")
	c := w.config(root)
	if len(w.problems) > 0 {
		return nil, w.problems.sorted()
	}
	return c, nil
}

// document returns the root of the only document in data, or nil and a problem.
func (w *walker) document(data []byte) *yaml.Node {
	whole := func(what, allowed string) *yaml.Node {
		w.problems = append(w.problems, Problem{File: w.file, Line: 1, Col: 1, What: what, Allowed: allowed})
		return nil
	}
	if len(data) > maxSize {
		return whole("the file is too large", fmt.Sprintf("at most %d bytes", maxSize))
	}
	if i := strange(data); i >= 0 {
		line, col := position(data, i)
		w.problems = append(w.problems, Problem{
			File: w.file, Line: line, Col: col, What: "this is not text", Allowed: "UTF-8 without control characters",
		})
		return nil
	}
	documents, err := parse(data)
	if err != nil {
		line, col := broken(data)
		w.problems = append(w.problems, Problem{
			File: w.file, Line: line, Col: col, What: "this is not YAML: " + reason(err), Allowed: "YAML 1.2",
		})
		return nil
	}
	if len(documents) == 0 {
		return whole("the file says nothing", "account, region, roles and more; examples/config.yaml shows them all")
	}
	if len(documents) > 1 {
		w.add(documents[1].Content[0], "", "a second document begins before this", "one document: no --- but in the first line")
	}
	return documents[0].Content[0]
}

// parse reads at most two documents: a second one is a problem whatever is in it.
func parse(data []byte) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	for len(documents) < 2 {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		documents = append(documents, &n)
	}
	return documents, nil
}

// reason is the library's message without its own name and place, which broken finds better.
func reason(err error) string {
	s := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(s, "line "); ok {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			s = after
		}
	}
	return s
}

// broken finds the first line at which data can no longer be read. The library's own number is often that of the
// block around it, and counts from 0 or from 1. So: the longest run of whole lines that can be read, and the line
// behind it. A cut through a list or a text of several lines cannot be read either, so look a little further on.
func broken(data []byte) (line, col int) {
	const (
		further = 30
		large   = 128 << 10 // each look costs up to 40 ms for 1 MiB
	)
	lines := bytes.SplitAfter(data, []byte("\n"))
	readable := func(n int) bool {
		_, err := parse(bytes.Join(lines[:n], nil))
		return err == nil
	}
	good, bad := 0, len(lines)
	for good+1 < bad {
		if mid := (good + bad) / 2; readable(mid) {
			good = mid
		} else {
			bad = mid
		}
	}
	for n := good + 2; n < len(lines) && n <= good+further && len(data) < large; n++ {
		if readable(n) {
			good = n
		}
	}
	text := string(lines[good])
	return good + 1, 1 + len(text) - len(strings.TrimLeft(text, " "))
}

// strange returns where data stops being text, or -1.
func strange(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		layout := r == '\t' || r == '\n' || r == '\r'
		broken := r == utf8.RuneError && n == 1
		if unicode.IsControl(r) && !layout || broken || r == 0xfffe || r == 0xffff {
			return i
		}
		i += n
	}
	return -1
}

func position(data []byte, i int) (line, col int) {
	before := data[:i]
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}
