package conformance

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const preface = `# Conformance

Real SDKs, unmodified, in real containers, on a simulated EC2 instance with no AWS behind it. ` + "`make conformance`" + ` makes this
page; it holds the last complete run.

Every container is started with ` + "`--network none`" + ` and a role whose egress leads to the laboratory's STS and S3 only. One tiny
program per client lists a bucket with what its SDK's **default chain** finds, asks STS who it is where the SDK has STS,
waits until the credentials have been renewed, and does both again in the same process.

- *found*: the bucket was listed.
- *identity*: the account's audit trail, and STS where it was asked, name the session of this very container.
- *rotated*: the second listing was signed with another access key than the first.
- *first credential*: from the beginning of the program, SDK loading included, to credentials in hand. The AWS CLI has
  no way to stop there: its figure is a whole ` + "`sts get-caller-identity`" + `. Other containers start at the same time on two
  processors, so the figures compare clients only roughly.

Paths: *ECS* is the variable that taskrole injects; *IMDS* is a program without any variable; *IMDS IPv6* sets
` + "`AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6`" + `; *FULL_URI* is ` + "`AWS_CONTAINER_CREDENTIALS_FULL_URI`" + ` with
an address on loopback and a token (` + "`inject: full`" + `), *pod* the same with 169.254.170.23 (` + "`inject: pod-identity`" + `). These two have no IMDS
to fall back to.
`

// Markdown writes the page of the documentation. notes are sections that people have written.
func (r Report) Markdown(w io.Writer, notes string) error {
	var b strings.Builder
	b.WriteString(preface)
	passed, failed, notRun := r.Count()
	fmt.Fprintf(&b, "\n## The last run\n\n%s, Linux %s, %s: %d passed, %d failed, %d not run.\n\n",
		r.Date, r.Kernel, strings.Join(r.Engines, " and "), passed, failed, notRun)
	head := r.header()
	table(&b, head, func(yield func([]string)) {
		for _, l := range r.rows() {
			yield(append([]string{cmp.Or(l.sdk, l.client), string(l.path)}, l.fields(r.Engines)...))
		}
	})
	if lines := r.remarks(); len(lines) > 0 {
		b.WriteString("\n### Why not\n\n")
		for _, line := range lines {
			b.WriteString("- " + escape(line) + "\n")
		}
	}
	r.verdicts(&b, whose, "environment", r.Verdicts)
	r.verdicts(&b, tokenStep, "the answer to PUT", r.Tokens)
	r.outage(&b)
	if notes != "" {
		b.WriteString("\n" + strings.TrimSpace(notes) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const whose = `
## Whose identity wins

The variable of the ECS path is set beside what the first column says. *container* is the container's role at the ECS endpoint,
*IMDS* the same role found there, *env* and *file* are other credentials (*default*: the file's default profile), *stop* is an error.
Bold: not what was expected.

`

const tokenStep = `
## What clients do when IMDS gives no token

A container without taskrole, before a metadata service that has a role and allows IMDSv1, but answers
` + "`PUT /latest/api/token`" + ` as the first column says. *v2* takes the token; *v1* asks without one, and has the host's role; *stop* finds
nothing. In brackets how long the client took until it had credentials, where that is a second or more. Our own endpoint
answers 200, 400 or 403 only; the rest is what a host's metadata service, its hop limit or a firewall do. Bold: not what was expected.

`

const outage = `
## What people see when STS is out

Credentials were there, then STS failed, and the credentials ended. Nobody got another identity. These are the last words of
each program, which asked the ECS endpoint.

`

// verdicts draws a table of verdicts: what each client did, and in bold what the contract does not say.
func (r Report) verdicts(b *strings.Builder, heading, column string, verdicts []Verdict) {
	if len(verdicts) == 0 {
		return
	}
	var clients []string
	for _, v := range verdicts {
		for c := range v.Want {
			if !slices.Contains(clients, c) {
				clients = append(clients, c)
			}
		}
	}
	slices.SortFunc(clients, func(a, b string) int { return slices.Index(r.Clients, a) - slices.Index(r.Clients, b) })
	b.WriteString(heading)
	table(b, append([]string{column}, clients...), func(yield func([]string)) {
		for _, v := range verdicts {
			line := []string{v.Environment}
			for _, c := range clients {
				line = append(line, v.cell(c))
			}
			yield(line)
		}
	})
}

// outage draws what people see.
func (r Report) outage(b *strings.Builder) {
	if len(r.Outage) == 0 {
		return
	}
	b.WriteString(outage)
	table(b, []string{"client", "what it says (the end of it)"}, func(yield func([]string)) {
		for _, c := range r.Clients {
			if said, ran := r.Outage[c]; ran {
				yield([]string{c, said})
			}
		}
	})
}

// cell is what a client did, for a table.
func (v Verdict) cell(client string) string {
	got, ran := v.Got[client]
	switch {
	case !ran:
		return "not run"
	case got != v.Want[client]:
		return fmt.Sprintf("**%s** (said: %s)", got, v.Want[client])
	}
	if took := v.Took[client]; took >= time.Second {
		got += fmt.Sprintf(" (%.1f s)", took.Seconds())
	}
	return got
}

func table(b *strings.Builder, head []string, lines func(yield func([]string))) {
	line := func(fields []string) {
		b.WriteString("|")
		for _, f := range fields {
			b.WriteString(" " + escape(f) + " |")
		}
		b.WriteString("\n")
	}
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	lines(line)
}

// escape keeps a client's words from becoming Markdown.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ", "\r", " ", "`", "'").Replace(s)
}
