package conformance

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Prediction is what the doctor said of one client in one condition, and what was seen.
type Prediction struct {
	Condition, Client string
	Predicted, Seen   string // whose credentials
	Says, Reads       string // what its user reads where there are none, as the doctor says and as it was
	Agree             bool
	Known             string // why it does not agree, where that is known; Agree then says that this is still so
}

// Predictions is one comparison of the doctor with the SDKs.
type Predictions struct {
	Date                string
	Conditions, Clients []string // in the order of the report
	Cells               []Prediction
}

func (r Predictions) cell(condition, client string) (Prediction, bool) {
	for _, c := range r.Cells {
		if c.Condition == condition && c.Client == client {
			return c, true
		}
	}
	return Prediction{}, false
}

// agreed is how many predictions came true.
func (r Predictions) agreed() int {
	n := 0
	for _, c := range r.Cells {
		if c.Agree && c.Known == "" {
			n++
		}
	}
	return n
}

// known are the predictions that do not agree for a reason that is told.
func (r Predictions) known() (list []Prediction) {
	for _, c := range r.Cells {
		if c.Known != "" && c.Agree {
			list = append(list, c)
		}
	}
	return list
}

// word is a cell in short: what was seen, and what was said if that is something else.
func (p Prediction) word() string {
	switch {
	case p.Known != "" && p.Agree:
		return p.Seen + " (≠)"
	case p.Agree:
		return p.Seen
	case p.Predicted == p.Seen:
		return p.Seen + " (✗ other words)"
	}
	return fmt.Sprintf("%s (✗ said: %s)", p.Seen, p.Predicted)
}

// Text writes the matrix for people.
func (r Predictions) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "condition\t"+strings.Join(r.Clients, "\t"))
	for _, n := range r.Conditions {
		words := []string{n}
		for _, c := range r.Clients {
			p, ok := r.cell(n, c)
			if !ok {
				words = append(words, "–")
				continue
			}
			words = append(words, p.word())
		}
		fmt.Fprintln(t, strings.Join(words, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d predictions agree, %d are known not to\n", r.agreed(), len(r.Cells), len(r.known()))
	return err
}

// short are the words of the page, where twelve columns stand side by side.
var short = strings.NewReplacer("environment", "env", "container endpoint", "container", "instance metadata", "IMDS", "nowhere", "⏹", "the container's role", "role")

// Markdown writes doc/doctor-sdks.md.
func (r Predictions) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(predictionsHead)
	fmt.Fprintf(&b, "%s: %d of %d predictions agree, %d are known not to (≠).\n\n", r.Date, r.agreed(), len(r.Cells), len(r.known()))
	fmt.Fprintf(&b, "| condition | %s |\n|%s\n", strings.Join(r.Clients, " | "), strings.Repeat(" --- |", len(r.Clients)+1))
	for _, n := range r.Conditions {
		words := []string{n}
		for _, c := range r.Clients {
			p, _ := r.cell(n, c)
			words = append(words, short.Replace(p.word()))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(words, " | "))
	}
	for i, p := range r.known() {
		if i == 0 {
			b.WriteString("\nNot as the doctor says (≠):\n\n")
		}
		fmt.Fprintf(&b, "- %s, %s (it says %s): %s\n", p.Condition, p.Client, short.Replace(p.Predicted), p.Known)
	}
	b.WriteString(predictionsWords)
	for _, n := range r.Conditions {
		r.read(&b, n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// read writes what users read in one condition, those together who read the same.
func (r Predictions) read(b *strings.Builder, condition string) {
	by := map[string][]string{}
	var order []string
	for _, c := range r.Clients {
		p, ok := r.cell(condition, c)
		if !ok || p.Says == "" || !p.Agree || p.Known != "" {
			continue
		}
		if by[p.Says] == nil {
			order = append(order, p.Says)
		}
		by[p.Says] = append(by[p.Says], c)
	}
	for i, text := range order {
		if i == 0 {
			fmt.Fprintf(b, "\n%s:\n\n", condition)
		}
		tick := "`"
		if strings.Contains(text, tick) {
			tick = "``"
		}
		fmt.Fprintf(b, "- %s: %s%s%s\n", strings.Join(by[text], ", "), tick, text, tick)
	}
}

const predictionsHead = `# What the doctor says, and what SDKs do

For each condition a container is made of each client's image. ` + "`taskrole doctor --sdk all`" + ` says whose credentials each SDK
will use in it; then the client, the unmodified SDK of [conformance.md](conformance.md), searches with its default chain in
that same container, and calls a service that notes the access key that signs. Where nothing signs, the client's own words
must hold what the doctor says its user reads. ` + "`make conformance`" + ` makes this page; it is the last complete run.

- *env*: the keys in the environment; *file p*: a profile; *web identity*: STS was asked with the token
- *container*: the endpoint that the container variables lead to; *IMDS*: the instance's role; *role*: the role that taskrole serves
- *⏹*: nobody's: the search ends without credentials

boto3, boto3-debian (1.26, an old one, whose version the doctor finds) and awscli1 have one chain, botocore's. imdsv1-only is a script that asks
the metadata service without a token. Of minio-go and curl, which conformance.md has too, the doctor knows no chain.

`

const predictionsWords = `
## What users read

Where there are no credentials; … stands for what differs from run to run.
`
