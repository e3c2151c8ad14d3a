package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"taskrole/lab/probe/report"
)

// Account is what the simulated account must answer.
type Account struct {
	ID string
	// HostRole and HostSession are the instance's own identity.
	HostRole, HostSession string
	// TaskRole is the IAM role behind the roles of the agent's configuration.
	TaskRole string
	// Buckets are what ListBuckets answers to either role, sorted.
	Buckets []string
}

// expectation judges one cell: the words for the table, and why the outcome is wrong, or empty.
type expectation func(a Account, o Outcome) (words, wrong string)

// expectations are the cells there are. A pair that is missing is a dash in the table.
func expectations() map[Where]map[Column]expectation {
	const borrowed, own = "✅ but as the host's role", "✅ its own role"
	return map[Where]map[Column]expectation{
		Host:               {Plain: hostRole("✅ host role, buckets listed")},
		Bridge:             {Plain: hostRole(borrowed), Taskrole: taskRole(own)},
		Custom:             {Plain: hostRole(borrowed), Taskrole: taskRole(own)},
		HostNetwork:        {Plain: hostRole(borrowed), Taskrole: whereCgroupsTell(taskRole(own))},
		None:               {Plain: noCredentials(0), Taskrole: taskRole(own + ", buckets listed")},
		HopLimit1:          {Plain: noCredentials(clientPatience), Taskrole: taskRole(own)},
		CopiedWithoutToken: {Plain: unknownKey},
		CopiedWithToken:    {Plain: untilExpired},
	}
}

// clientPatience is the least a client takes to notice that answers of the metadata service do not arrive:
// aws-sdk-go-v2 waits 500 ms for the header of an answer (feature/ec2/imds). An error that comes sooner has another
// cause than a lost packet.
const clientPatience = 500 * time.Millisecond

// judge judges one outcome.
func judge(a Account, where Where, column Column, o Outcome) Cell {
	c := Cell{Where: where, Column: column, Outcome: o}
	expect, ok := expectations()[where][column]
	if !ok {
		c.Wrong = "the table has no such cell"
		return c
	}
	if c.Words, c.Wrong = expect(a, o); c.Wrong != "" {
		c.Words = "⚠️ not as it should be"
	}
	return c
}

// identity demands that both services answered, as this role and with these buckets; session empty is any.
func identity(a Account, role, session string, o Outcome) string {
	prefix := "arn:aws:sts::" + a.ID + ":assumed-role/" + role + "/"
	got, ok := strings.CutPrefix(o.Report.ARN, prefix)
	switch {
	case o.Refusal != "":
		return "the container was refused"
	case o.Report.Errors.First() != "":
		return "an error where there should be none"
	case !ok || got == "" || strings.Contains(got, "/"):
		return fmt.Sprintf("it is %q, not a session of %s", o.Report.ARN, role)
	case session != "" && got != session:
		return fmt.Sprintf("the session is %q, not %q", got, session)
	case !slices.Equal(slices.Sorted(slices.Values(o.Report.Buckets)), a.Buckets):
		return fmt.Sprintf("the buckets are %q, not %q", o.Report.Buckets, a.Buckets)
	}
	return ""
}

func hostRole(words string) expectation {
	return func(a Account, o Outcome) (string, string) { return words, identity(a, a.HostRole, a.HostSession, o) }
}

func taskRole(words string) expectation {
	return func(a Account, o Outcome) (string, string) { return words, identity(a, a.TaskRole, "", o) }
}

// whereCgroupsTell is expected, or the refusal on a machine without cgroup v2, where nothing tells a container on the host's
// network from the host's processes.
func whereCgroupsTell(expected expectation) expectation {
	return func(a Account, o Outcome) (words, wrong string) {
		if strings.Contains(o.Refusal, "no cgroup of its own") {
			return refusedWith("host-network")(a, o)
		}
		return expected(a, o)
	}
}

// refusedWith demands that the container did not start, and that the engine's error carries the fault's code.
func refusedWith(code string) expectation {
	return func(_ Account, o Outcome) (string, string) {
		words := "refused: " + sentence(o.Refusal)
		switch {
		case o.Refusal == "":
			return words, "the container was not refused"
		case !strings.Contains(o.Refusal, "["+code+"]"):
			return words, "the refusal does not say " + code
		case answered(o.Report):
			return words, "it was refused and answered all the same"
		}
		return words, ""
	}
}

// noCredentials demands that the client found no credentials, after it had looked for at least so long.
func noCredentials(atLeast time.Duration) expectation {
	return func(_ Account, o Outcome) (string, string) {
		words := "❌ " + phrase(o.Report.Errors.Credentials)
		if atLeast > 0 {
			words += fmt.Sprintf(" after %.1f s", o.Report.Seconds)
		}
		switch {
		case o.Refusal != "":
			return words, "the container was refused"
		case answered(o.Report):
			return words, "AWS answered"
		case o.Report.Errors.Credentials == "":
			return words, "no error of the credentials"
		case o.Report.Seconds < atLeast.Seconds():
			return words, fmt.Sprintf("the client gave up after %.3f s, before its time-out", o.Report.Seconds)
		}
		return words, ""
	}
}

func answered(r report.Report) bool { return r.ARN != "" || r.Buckets != nil }

// unknownKey is what S3 says to the first two of the three values.
func unknownKey(_ Account, o Outcome) (words, wrong string) {
	words = "❌ InvalidAccessKeyId"
	switch {
	case o.Refusal != "":
		return words, "the container was refused"
	case answered(o.Report):
		return words, "AWS answered"
	case o.Report.Errors.Credentials != "":
		return words, "the client did not find the keys"
	case !strings.Contains(o.Report.Errors.S3, "InvalidAccessKeyId"):
		return words, "S3 does not say InvalidAccessKeyId"
	case !strings.Contains(o.Report.Errors.STS, "InvalidClientTokenId"):
		return words, "STS does not say InvalidClientTokenId"
	}
	return words, ""
}

// untilExpired demands the host's identity first, and nothing but ExpiredToken after the end.
func untilExpired(a Account, o Outcome) (words, wrong string) {
	words = "✅ until they expire, then ❌ ExpiredToken"
	if wrong := identity(a, a.HostRole, a.HostSession, o); wrong != "" {
		return words, wrong
	}
	switch l := o.Later; {
	case l == nil:
		return words, "nobody asked after the keys had ended"
	case answered(*l):
		return words, "AWS answered to keys that had ended"
	case l.Errors.Credentials != "":
		return words, "the client did not find the keys"
	case !strings.Contains(l.Errors.S3, "ExpiredToken"):
		return words, "S3 does not say ExpiredToken"
	case !strings.Contains(l.Errors.STS, "ExpiredToken"):
		return words, "STS does not say ExpiredToken"
	}
	return words, ""
}

// phrase is the part of a client's error that names the trouble. What the table shows is always a part of the
// client's own words and never a translation of them.
func phrase(words string) string {
	for _, p := range []string{"Unable to locate credentials", "no EC2 IMDS role found", "network is unreachable"} {
		if strings.Contains(words, p) {
			return p
		}
	}
	return cut(words, 60)
}

func cut(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// sentence finds the product's own sentence, "taskrole: WHAT: HINT [CODE]", in what an engine wraps around it.
func sentence(refusal string) string {
	s := refusal
	if _, after, ok := strings.Cut(s, "taskrole: "); ok {
		s = after
	}
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	if i := strings.LastIndexByte(s, ']'); i >= 0 {
		s = s[:i+1]
	}
	return s
}
