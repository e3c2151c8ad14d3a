package archtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"taskrole/internal/fault"
)

const (
	module = "taskrole"
	top    = "../.." // of the repository
)

var update = flag.Bool("update", false, "write the import table into ARCHITECTURE.md")

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Dir        string
	Imports    []string
	GoFiles    []string
}

// short is the name of one of our packages in the tables.
func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module+"/"), "internal/")
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Doc,Dir,Imports,GoFiles"}, args...)...)
	cmd.Dir = top
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatalf("decode go list's output: %v", err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list names no package")
	}
	return all
}

// everything is every package of the module, asked for once: go list takes a second.
var everything []pkg

// packages returns every package of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	if everything == nil {
		everything = list(t, "./...")
	}
	return everything
}

// table returns the rows by package.
func table(t *testing.T) map[string][]string {
	t.Helper()
	rows := map[string][]string{}
	for _, f := range house {
		for _, r := range f.rows {
			if _, twice := rows[r.pkg]; twice {
				t.Errorf("the import table has two rows for %s", r.pkg)
			}
			rows[r.pkg] = strings.Fields(r.may)
		}
	}
	return rows
}

func TestEveryPackageImportsOnlyWhatItsRowAllows(t *testing.T) {
	rows, seen := table(t), map[string]bool{}
	for _, p := range packages(t) {
		name := short(p.ImportPath)
		seen[name] = true
		may, known := rows[name]
		if !known {
			t.Errorf("%s has no row in the import table", name)
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module+"/") && !slices.Contains(may, short(imp)) {
				t.Errorf("%s imports %s, which its row does not allow", name, short(imp))
			}
		}
		for _, m := range may {
			if !slices.ContainsFunc(p.Imports, func(imp string) bool { return short(imp) == m }) {
				t.Errorf("%s may import %s by its row, and does not: take it out", name, m)
			}
		}
	}
	for name := range rows {
		if !seen[name] {
			t.Errorf("the import table has a row for %s, which does not exist", name)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	storey := map[string]int{}
	for i, f := range house {
		for _, r := range f.rows {
			storey[r.pkg] = i
		}
	}
	lab := slices.IndexFunc(house, func(f floor) bool { return strings.HasPrefix(f.name, "the lab") })
	for name, may := range table(t) {
		for _, m := range may {
			to, known := storey[m]
			if !known {
				t.Errorf("%s may import %s, which has no row", name, m)
			}
			ours := storey[name] < lab && storey[name] > 0
			if to < storey[name] && storey[name] < lab {
				t.Errorf("%s may import %s from a floor above", name, m)
			}
			if ours && to >= lab {
				t.Errorf("%s may import %s: the lab and the tests are not for the programs", name, m)
			}
		}
	}
}

func TestEachLibraryHasItsDoors(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			first, _, _ := strings.Cut(imp, "/")
			if !strings.Contains(first, ".") {
				continue // the standard library, or ours
			}
			i := slices.IndexFunc(doors, func(d door) bool { return strings.HasPrefix(imp, d.library) })
			if i < 0 {
				t.Errorf("%s imports %s, which has no door", short(p.ImportPath), imp)
				continue
			}
			if !slices.Contains(strings.Fields(doors[i].packages), short(p.ImportPath)) {
				t.Errorf("%s imports %s; only %s may", short(p.ImportPath), imp, doors[i].packages)
			}
			used[doors[i].library+" "+short(p.ImportPath)] = true
		}
	}
	for _, d := range doors {
		for p := range strings.FieldsSeq(d.packages) {
			if !used[d.library+" "+p] {
				t.Errorf("%s is a door to %s and does not use it: take it out", p, d.library)
			}
		}
	}
}

func TestProgramsDoNotContainTheLab(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/taskrole", "./cmd/taskrole-agent", "./cmd/taskrole-runtime") {
		for _, banned := range []string{module + "/lab/", module + "/test/", module + "/internal/testkit", "github.com/rclone/"} {
			if strings.HasPrefix(p.ImportPath+"/", banned) {
				t.Errorf("a program contains %s", p.ImportPath)
			}
		}
	}
}

// What holds everybody's credentials contains nothing that reads files of containers, installs, or prints manuals.
func TestAgentContainsNoOtherCommand(t *testing.T) {
	banned := []string{
		"cli", "doctor", "diagnose", "facts", "audit", "setup", "hostrole", "launch", "instancerole", "manual", "envfile",
		"github.com/spf13/cobra", "github.com/russross/blackfriday/v2", "text/template", "debug/buildinfo",
	}
	for _, p := range list(t, "-deps", "./cmd/taskrole-agent") {
		if slices.Contains(banned, p.ImportPath) || slices.Contains(banned, short(p.ImportPath)) {
			t.Errorf("taskrole-agent contains %s", p.ImportPath)
		}
	}
}

func TestRuntimeContainsNothingHeavy(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/taskrole-runtime") {
		for _, banned := range neverInRuntime {
			if p.ImportPath == banned || strings.HasPrefix(p.ImportPath, banned) && strings.HasSuffix(banned, "/") {
				t.Errorf("taskrole-runtime contains %s", p.ImportPath)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(strings.Fields(p.Doc)) < 5 {
			t.Errorf("%s has no package comment", short(p.ImportPath))
		}
	}
}

func TestOnlyTheseRevealSecrets(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if name := short(p.ImportPath); ok && s.Sel.Name == "Reveal" && name != "secret" {
					used[name] = true
					if !slices.Contains(reveals, name) {
						t.Errorf("%s/%s calls Reveal; only %v may", name, file, reveals)
					}
				}
				return true
			})
		}
	}
	for _, name := range reveals {
		if !used[name] {
			t.Errorf("%s may call Reveal and does not: take it out", name)
		}
	}
}

func TestGoModReplacesNothing(t *testing.T) {
	for _, dir := range []string{".", "tools"} {
		cmd := exec.Command("go", "mod", "edit", "-json")
		cmd.Dir = filepath.Join(top, dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go mod edit: %v", err)
		}
		var mod struct{ Replace []any }
		if err := json.Unmarshal(out, &mod); err != nil {
			t.Fatal(err)
		}
		if len(mod.Replace) > 0 {
			t.Errorf("%s/go.mod replaces %v", dir, mod.Replace)
		}
	}
}

func TestManualHasAHeadingForEveryFaultCode(t *testing.T) {
	var headings []string
	for _, m := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(read(t, "doc/errors.md"), -1) {
		headings = append(headings, m[1])
	}
	for _, c := range fault.Codes() {
		if !slices.Contains(headings, string(c)) {
			t.Errorf("doc/errors.md has no heading for %s", c)
		}
	}
	for _, h := range headings {
		if !slices.Contains(fault.Codes(), fault.Code(h)) {
			t.Errorf("doc/errors.md explains %s, which is no code", h)
		}
	}
}

// picture draws the table as ARCHITECTURE.md shows it.
func picture() string {
	var b strings.Builder
	for _, f := range house {
		fmt.Fprintf(&b, "%s\n", f.name)
		for _, r := range f.rows {
			may := r.may
			if may == "" {
				may = "–"
			}
			fmt.Fprintf(&b, "    %-22s %s\n", r.pkg, wrap(may, 76))
		}
	}
	return b.String()
}

// wrap breaks a long row, keeping the column.
func wrap(s string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(s) {
		if column > 0 && column+1+len(word) > width {
			fmt.Fprintf(&b, "\n%27s", "")
			column = 0
		} else if column > 0 {
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

func TestArchitectureShowsTheTable(t *testing.T) {
	const begin, end = "<!-- import table -->\n```\n", "```\n<!-- end -->"
	text := read(t, "ARCHITECTURE.md")
	before, rest, ok := strings.Cut(text, begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("ARCHITECTURE.md has no place for the import table, between %q and %q", begin, end)
	}
	if shown == picture() {
		return
	}
	if !*update {
		t.Fatal("ARCHITECTURE.md shows another import table: run go test ./internal/archtest -update")
	}
	text = before + begin + picture() + end + after
	if err := os.WriteFile(filepath.Join(top, "ARCHITECTURE.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEveryInvariantNamesATestThatExists(t *testing.T) {
	_, section, ok := strings.Cut(read(t, "ARCHITECTURE.md"), "\n## Invariants\n")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no section Invariants")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	items := regexp.MustCompile(`(?m)^\d+\. `).Split(section, -1)[1:]
	if len(items) == 0 {
		t.Fatal("ARCHITECTURE.md names no invariant")
	}
	for i, item := range items {
		if !namedTest.MatchString(item) {
			t.Errorf("invariant %d names no test as `package TestName`", i+1)
		}
	}
}

// namedTest is how documents name a test: `package TestName`.
var namedTest = regexp.MustCompile("`([a-z0-9/]+) ((?:Test|Fuzz)\\w+)`")

func TestTestsThatDocumentsNameExist(t *testing.T) {
	eachDocument(t, func(path, text string) {
		for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
			if !hasTest(t, m[1], m[2]) {
				t.Errorf("%s names %s in %s, which does not exist", path, m[2], m[1])
			}
		}
	})
}

func hasTest(t *testing.T, name, test string) bool {
	t.Helper()
	var files []string
	for _, dir := range []string{"", "internal", "test"} {
		found, err := filepath.Glob(filepath.Join(top, dir, name, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "\nfunc "+test+"(")
	})
}

func TestLinksInTheDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	eachDocument(t, func(path, text string) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	})
}

// eachDocument calls f with every Markdown file of the project.
func eachDocument(t *testing.T, f func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "build", "bin", "testdata"}, d.Name()) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			f(path, string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheReadmesShowTheSameCommands keeps the Japanese README from falling behind: whoever changes a command or an example
// in one meets the other.
func TestTheReadmesShowTheSameCommands(t *testing.T) {
	fenced := regexp.MustCompile("(?s)```.*?```")
	english, japanese := fenced.FindAllString(read(t, "README.md"), -1), fenced.FindAllString(read(t, "README.ja.md"), -1)
	if len(english) == 0 || !slices.Equal(english, japanese) {
		t.Errorf("README.md has the blocks\n%s\nand README.ja.md\n%s", strings.Join(english, "\n"), strings.Join(japanese, "\n"))
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
