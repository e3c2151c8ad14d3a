// Package conformance runs real SDKs, unmodified, in real containers, and writes down which of them find the role of
// their container by themselves, on which path, and whether they notice that the credentials have changed.
//
// What is not behind the build tag conformance is only the report: values in, text out. The suite itself needs root, the
// engines of scripts/engines and the clients of scripts/clients, and is started by `make conformance`. It refuses to
// call passed what did not run: a client that cannot be had here is a row that says so.
package conformance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Path is the way on which a client is to find credentials.
type Path string

// The paths.
const (
	ECS     Path = "ECS"       // AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, as a way in injects it
	IMDS    Path = "IMDS"      // no variable at all: 169.254.169.254
	IMDS6   Path = "IMDS IPv6" // AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6: [fd00:ec2::254]
	FullURI Path = "FULL_URI"  // AWS_CONTAINER_CREDENTIALS_FULL_URI on loopback, with a token
	Pod     Path = "pod"       // the same at 169.254.170.23, as EKS Pod Identity has it
)

// Paths are all of them, in the order of the report.
func Paths() []Path { return []Path{ECS, IMDS, IMDS6, FullURI, Pod} }

// Cell is one client on one path on one engine.
type Cell struct {
	Client   string        `json:"client"`
	SDK      string        `json:"sdk,omitempty"` // its name and version, as it says itself
	Path     Path          `json:"path"`
	Engine   string        `json:"engine"`
	NotRun   string        `json:"not_run,omitempty"` // why; the rest is then empty
	Found    bool          `json:"found"`             // the bucket was listed with credentials of the default chain
	Identity bool          `json:"identity"`          // the account saw the session of this very container
	Rotated  bool          `json:"rotated"`           // later it was listed with other credentials, by the same process
	First    time.Duration `json:"first_credential_ns,omitempty"`
	Waited   time.Duration `json:"waited_ns,omitempty"` // between the first and the second time
	Error    string        `json:"error,omitempty"`     // what the client said, or what the account saw otherwise
	Known    string        `json:"known,omitempty"`     // why it fails, if that is the client's own affair
}

// Passed says whether everything was as it must be.
func (c Cell) Passed() bool { return c.NotRun == "" && c.Found && c.Identity && c.Rotated }

// Verdict is one row of the golden vectors or of the token step: an environment, or what a metadata service answers, and
// what each client makes of it.
type Verdict struct {
	Environment string                   `json:"environment"`
	Want        map[string]string        `json:"want"` // by client
	Got         map[string]string        `json:"got"`  // by client; one that did not run is not in it
	Notes       map[string]string        `json:"notes,omitempty"`
	Took        map[string]time.Duration `json:"took_ns,omitempty"` // until the client had credentials, where it matters
}

// Report is one run.
type Report struct {
	Date     string            `json:"date"`
	Kernel   string            `json:"kernel"`
	Engines  []string          `json:"engines"`
	Clients  []string          `json:"clients"` // in the order of the report
	Cells    []Cell            `json:"cells"`
	Verdicts []Verdict         `json:"verdicts,omitempty"` // whose identity wins
	Tokens   []Verdict         `json:"tokens,omitempty"`   // what answers to PUT /latest/api/token make clients do
	Outage   map[string]string `json:"outage,omitempty"`   // what clients say when STS is out and their credentials have ended
	Complete bool              `json:"complete"`           // every client was asked for
}

// row is one line of the table: a client on a path, on all engines.
type row struct {
	client, sdk string
	path        Path
	cells       []Cell
}

func (r Report) rows() []row {
	var rows []row
	for _, client := range r.Clients {
		for _, path := range Paths() {
			line := row{client: client, path: path}
			for _, c := range r.Cells {
				if c.Client == client && c.Path == path {
					line.cells = append(line.cells, c)
					line.sdk = cmp.Or(c.SDK, line.sdk)
				}
			}
			slices.SortFunc(line.cells, func(a, b Cell) int {
				return slices.Index(r.Engines, a.Engine) - slices.Index(r.Engines, b.Engine)
			})
			if len(line.cells) > 0 {
				rows = append(rows, line)
			}
		}
	}
	return rows
}

// fields are found, identity, rotated, and the time for each engine.
func (l row) fields(engines []string) []string {
	if why := l.notRun(); why != "" {
		return append([]string{"not run", "not run", "not run"}, slices.Repeat([]string{"–"}, len(engines))...)
	}
	fields := []string{
		l.say(func(c Cell) bool { return c.Found }),
		l.say(func(c Cell) bool { return c.Identity }),
		l.say(func(c Cell) bool { return c.Rotated }),
	}
	for _, e := range engines {
		text := "–"
		for _, c := range l.cells {
			if c.Engine == e && c.First > 0 {
				text = fmt.Sprintf("%d ms", c.First.Milliseconds())
			}
		}
		fields = append(fields, text)
	}
	return fields
}

// notRun is the reason when the client ran on no engine.
func (l row) notRun() string {
	why := ""
	for _, c := range l.cells {
		if c.NotRun == "" {
			return ""
		}
		why = c.NotRun
	}
	return why
}

// say is yes, no, or where not. What did not run is never a yes.
func (l row) say(is func(Cell) bool) string {
	var not []string
	for _, c := range l.cells {
		switch {
		case c.NotRun != "":
			not = append(not, "not run on "+c.Engine)
		case !is(c):
			not = append(not, "NO on "+c.Engine)
		}
	}
	switch {
	case len(not) == 0:
		return "yes"
	case len(not) == len(l.cells) && !strings.Contains(strings.Join(not, ""), "not run"):
		return "NO"
	}
	if len(not) < len(l.cells) {
		not = append([]string{"yes"}, not...)
	}
	return strings.Join(not, ", ")
}

// header names the columns.
func (r Report) header() []string {
	head := []string{"client", "path", "found", "identity", "rotated"}
	for _, e := range r.Engines {
		head = append(head, "first credential, "+e)
	}
	return head
}

// remarks are the reasons and the clients' own words for whatever did not pass, each once.
func (r Report) remarks() []string {
	var lines []string
	for _, c := range r.Cells {
		text := cmp.Or(c.NotRun, c.Error)
		if text == "" {
			continue
		}
		kind := "failed on " + c.Engine
		if c.NotRun != "" {
			kind = "not run"
		}
		line := fmt.Sprintf("%s, %s: %s: %s", c.Client, c.Path, kind, text)
		if c.Known != "" && !c.Passed() && c.NotRun == "" {
			line += " – " + c.Known
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Count says how many cells passed, failed and did not run.
func (r Report) Count() (passed, failed, notRun int) {
	for _, c := range r.Cells {
		switch {
		case c.NotRun != "":
			notRun++
		case c.Passed():
			passed++
		default:
			failed++
		}
	}
	return passed, failed, notRun
}

// Text writes the tables for a terminal.
func (r Report) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) //nolint:mnd // two blanks between columns
	fmt.Fprintln(t, strings.Join(r.header(), "\t"))
	for _, l := range r.rows() {
		fmt.Fprintln(t, strings.Join(append([]string{l.client, string(l.path)}, l.fields(r.Engines)...), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, line := range r.remarks() {
		fmt.Fprintln(w, line)
	}
	for _, v := range slices.Concat(r.Verdicts, r.Tokens) {
		for _, line := range v.differences() {
			fmt.Fprintf(w, "%s: %s\n", v.Environment, line)
		}
	}
	passed, failed, notRun := r.Count()
	_, err := fmt.Fprintf(w, "%d passed, %d failed, %d not run\n", passed, failed, notRun)
	return err
}

// JSON writes the report for machines.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// differences are the clients that took another identity than expected.
func (v Verdict) differences() []string {
	var lines []string
	for client, got := range v.Got {
		if want := v.Want[client]; got != want {
			lines = append(lines, fmt.Sprintf("%s: %s, the contract says %s: %s", client, got, want, v.Notes[client]))
		}
	}
	slices.Sort(lines)
	return lines
}
