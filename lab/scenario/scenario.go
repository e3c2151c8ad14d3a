// Package scenario is the story of the demonstration as rows of a table: what is run, what must come of it, and how
// that is shown.
//
// It measures and judges, and refuses to make anything: the instance, the engine and the account are handed to it by
// whoever launched them. A cell is what one AWS client said in this run; nothing in the table is written down
// beforehand. An expectation says no to everything it was not written for, so that a table that comes out wrong
// cannot look right.
package scenario

import (
	"time"

	"taskrole/lab/probe/report"
)

// Where says where a process runs.
type Where string

// The rows, in the order of the table. They are an interface: --json prints them.
const (
	Host               Where = "host"
	Bridge             Where = "bridge"
	Custom             Where = "custom"
	HostNetwork        Where = "host-network"
	None               Where = "none"
	HopLimit1          Where = "hop-limit-1"
	CopiedWithoutToken Where = "copied-without-token"
	CopiedWithToken    Where = "copied-with-token"
)

// Column says whether taskrole is in the picture.
type Column string

// The columns.
const (
	Plain    Column = "plain"
	Taskrole Column = "taskrole"
)

// Outcome is what was measured in one cell, before anybody judged it.
type Outcome struct {
	// Report is what the client in the container found.
	Report report.Report
	// Refusal is what the engine said when the container did not start; Report is then empty.
	Refusal string
	// Elapsed is the whole time, the engine's included.
	Elapsed time.Duration
	// Later is the same client asked once more after its keys have ended; nil where nobody did.
	Later *report.Report
}

// Cell is one judged field of the table.
type Cell struct {
	Where   Where
	Column  Column
	Outcome Outcome
	// Wrong says why the outcome is not the one the table promises; empty if it is.
	Wrong string
	// Words are what the table shows.
	Words string
}

// OK says whether the cell came out as the table says.
func (c Cell) OK() bool { return c.Wrong == "" }

// Complaint is the exact words in which the client or the engine said no, or empty.
func (c Cell) Complaint() string {
	switch {
	case c.Outcome.Refusal != "":
		return c.Outcome.Refusal
	case c.Outcome.Later != nil && c.Outcome.Report.Errors.First() == "":
		return c.decisive(*c.Outcome.Later)
	}
	return c.decisive(c.Outcome.Report)
}

// decisive prefers S3's words to STS's: listing buckets is what the story is about.
func (Cell) decisive(r report.Report) string {
	if r.Errors.S3 != "" {
		return r.Errors.S3
	}
	return r.Errors.First()
}

// Seconds is how long the client took, or the engine if it never let the client run.
func (c Cell) Seconds() float64 {
	if c.Outcome.Refusal != "" || c.Outcome.Report.Seconds == 0 {
		return c.Outcome.Elapsed.Seconds()
	}
	return c.Outcome.Report.Seconds
}

// label is how the table names a row.
func (w Where) label() string {
	return map[Where]string{
		Host:               "on the instance itself",
		Bridge:             "--network bridge",
		Custom:             "custom bridge network",
		HostNetwork:        "--network host",
		None:               "--network none",
		HopLimit1:          "bridge, IMDS hop limit 1",
		CopiedWithoutToken: "bridge, keys copied without the session token",
		CopiedWithToken:    "bridge, keys copied with the session token",
	}[w]
}

// rows is the order of the table.
func rows() []Where {
	return []Where{Host, Bridge, Custom, HostNetwork, None, HopLimit1, CopiedWithoutToken, CopiedWithToken}
}
