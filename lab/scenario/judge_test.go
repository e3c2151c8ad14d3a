package scenario

import (
	"strings"
	"testing"
	"time"

	"taskrole/lab/probe/report"
)

// account is what every test of this package expects.
func account() Account {
	return Account{ID: "123456789012", HostRole: "host-role", HostSession: "i-1", TaskRole: "task-role", Buckets: []string{"a", "b"}}
}

const (
	hostARN = "arn:aws:sts::123456789012:assumed-role/host-role/i-1"
	taskARN = "arn:aws:sts::123456789012:assumed-role/task-role/app-3f2a91"
	noCreds = "failed to refresh cached credentials, no EC2 IMDS role found, operation error ec2imds: GetMetadata, canceled"
	refusal = "docker: Error response from daemon: runc create failed: error running createRuntime hook #0: exit status 1, stdout: , " +
		"stderr: taskrole: container 3f2a91 uses the host's network, and no cgroup of its own tells it from the host's processes: boot with cgroup v2 [host-network]: unknown.\n\nRun 'docker run --help' for more information"
	invalidKey = "operation error S3: ListBuckets, https response error StatusCode: 403, api error InvalidAccessKeyId: The AWS Access Key Id you provided does not exist in our records."
	invalidID  = "operation error STS: GetCallerIdentity, https response error StatusCode: 403, api error InvalidClientTokenId: The security token included in the request is invalid."
	expiredS3  = "operation error S3: ListBuckets, https response error StatusCode: 400, api error ExpiredToken: The provided token has expired."
	expiredSTS = "operation error STS: GetCallerIdentity, https response error StatusCode: 403, api error ExpiredToken: The security token included in the request is expired"
)

func answer(arn string, buckets ...string) Outcome {
	return Outcome{Report: report.Report{ARN: arn, Buckets: buckets, Seconds: 0.25}, Elapsed: time.Second}
}

func failing(seconds float64, e report.Errors) Outcome {
	return Outcome{Report: report.Report{Errors: e, Seconds: seconds}, Elapsed: 2 * time.Second}
}

// good are outcomes that every cell of the table accepts.
func good() map[Where]map[Column]Outcome {
	expired := answer(hostARN, "a", "b")
	expired.Later = &report.Report{Errors: report.Errors{STS: expiredSTS, S3: expiredS3}}
	host, task := answer(hostARN, "b", "a"), answer(taskARN, "a", "b")
	return map[Where]map[Column]Outcome{
		Host:               {Plain: host},
		Bridge:             {Plain: host, Taskrole: task},
		Custom:             {Plain: host, Taskrole: task},
		HostNetwork:        {Plain: host, Taskrole: task},
		None:               {Plain: failing(0.01, report.Errors{Credentials: noCreds}), Taskrole: task},
		HopLimit1:          {Plain: failing(2, report.Errors{Credentials: noCreds}), Taskrole: task},
		CopiedWithoutToken: {Plain: failing(0.1, report.Errors{STS: invalidID, S3: invalidKey})},
		CopiedWithToken:    {Plain: expired},
	}
}

func TestEveryCellAcceptsWhatTheTablePromises(t *testing.T) {
	outcomes := good()
	n := 0
	for where, columns := range expectations() {
		for column := range columns {
			n++
			c := judge(account(), where, column, outcomes[where][column])
			if !c.OK() || c.Words == "" {
				t.Errorf("%s, %s: %q: %s", where, column, c.Words, c.Wrong)
			}
		}
	}
	if n != 13 {
		t.Errorf("the table has %d cells, want 13", n)
	}
	refused := Outcome{Refusal: refusal, Elapsed: 300 * time.Millisecond} // on a machine with cgroup v1 alone
	if c := judge(account(), HostNetwork, Taskrole, refused); !c.OK() || !strings.HasPrefix(c.Words, "refused: ") {
		t.Errorf("the refusal for want of cgroups: %q: %s", c.Words, c.Wrong)
	}
	if c := judge(account(), Host, Taskrole, answer(taskARN, "a", "b")); c.OK() {
		t.Error("a cell the table does not have is accepted")
	}
}

// TestEveryCellRefusesTheGoodOutcomesOfTheOthers shows each cell everything that is right somewhere else.
func TestEveryCellRefusesTheGoodOutcomesOfTheOthers(t *testing.T) {
	kind := func(w Where, c Column) string { // cells of one kind promise the same
		switch {
		case w == CopiedWithToken || w == CopiedWithoutToken:
			return string(w)
		case c == Taskrole:
			return "task"
		case w == None || w == HopLimit1:
			return "nothing"
		}
		return "host"
	}
	for where, columns := range expectations() {
		for column := range columns {
			for from, others := range good() {
				for fromColumn, o := range others {
					if kind(from, fromColumn) == kind(where, column) || kind(from, fromColumn) == string(CopiedWithToken) && kind(where, column) == "host" {
						continue
					}
					if c := judge(account(), where, column, o); c.OK() {
						t.Errorf("%s, %s accepts what is right for %s, %s", where, column, from, fromColumn)
					}
				}
			}
		}
	}
}

func TestWrongOutcomesAreNoticed(t *testing.T) {
	const otherAccount = "arn:aws:sts::999999999999:assumed-role/task-role/x"
	later := func(r report.Report) Outcome {
		o := answer(hostARN, "a", "b")
		o.Later = &r
		return o
	}
	withError := answer(taskARN, "a", "b")
	withError.Report.Errors.S3 = "api error AccessDenied"
	refusedAndAnswered := answer(taskARN, "a", "b")
	refusedAndAnswered.Refusal = refusal
	for name, c := range map[string]struct {
		where  Where
		column Column
		o      Outcome
	}{
		"nothing_measured":              {Bridge, Taskrole, Outcome{}},
		"the_hosts_role_in_a_container": {Bridge, Taskrole, answer(hostARN, "a", "b")},
		"another_account":               {Bridge, Taskrole, answer(otherAccount, "a", "b")},
		"a_role_with_a_longer_name":     {Bridge, Taskrole, answer("arn:aws:sts::123456789012:assumed-role/task-role-2/x", "a", "b")},
		"no_session":                    {Bridge, Taskrole, answer("arn:aws:sts::123456789012:assumed-role/task-role/", "a", "b")},
		"a_path_in_the_session":         {Bridge, Taskrole, answer(taskARN+"/x", "a", "b")},
		"the_role_and_no_session":       {Bridge, Taskrole, answer("arn:aws:iam::123456789012:role/task-role", "a", "b")},
		"another_session_of_the_host":   {Host, Plain, answer("arn:aws:sts::123456789012:assumed-role/host-role/i-2", "a", "b")},
		"no_buckets":                    {None, Taskrole, answer(taskARN)},
		"one_bucket_too_few":            {None, Taskrole, answer(taskARN, "a")},
		"one_bucket_too_many":           {None, Taskrole, answer(taskARN, "a", "b", "c")},
		"buckets_and_an_error":          {None, Taskrole, withError},
		"refused_and_answered":          {HostNetwork, Taskrole, refusedAndAnswered},
		"refused_for_another_reason":    {HostNetwork, Taskrole, Outcome{Refusal: "taskrole: no such role [role-unknown]"}},
		"the_code_only_in_passing":      {HostNetwork, Taskrole, Outcome{Refusal: "container demo-host-network-taskrole: no space left on device"}},
		"isolated_yet_somebody":         {None, Plain, answer(hostARN, "a", "b")},
		"an_error_of_s3_only":           {None, Plain, failing(1, report.Errors{S3: invalidKey})},
		"plain_and_refused":             {None, Plain, Outcome{Refusal: refusal}},
		"gave_up_before_the_time_out":   {HopLimit1, Plain, failing(0.1, report.Errors{Credentials: noCreds})},
		"the_wrong_error_of_s3":         {CopiedWithoutToken, Plain, failing(1, report.Errors{STS: invalidID, S3: expiredS3})},
		"the_wrong_error_of_sts":        {CopiedWithoutToken, Plain, failing(1, report.Errors{STS: expiredSTS, S3: invalidKey})},
		"copied_keys_not_found":         {CopiedWithoutToken, Plain, failing(1, report.Errors{Credentials: noCreds})},
		"never_asked_again":             {CopiedWithToken, Plain, answer(hostARN, "a", "b")},
		"still_alive_after_the_end":     {CopiedWithToken, Plain, later(report.Report{ARN: hostARN, Buckets: []string{"a", "b"}})},
		"ended_in_another_way":          {CopiedWithToken, Plain, later(report.Report{Errors: report.Errors{STS: invalidID, S3: invalidKey}})},
		"sts_alive_after_the_end":       {CopiedWithToken, Plain, later(report.Report{ARN: hostARN, Errors: report.Errors{S3: expiredS3}})},
	} {
		t.Run(name, func(t *testing.T) {
			cell := judge(account(), c.where, c.column, c.o)
			if cell.OK() {
				t.Errorf("accepted: %+v", c.o)
			}
			if !strings.HasPrefix(cell.Words, "⚠️") {
				t.Errorf("the table shows %q", cell.Words)
			}
		})
	}
}

func TestTheTableShowsTheirOwnWords(t *testing.T) {
	for in, want := range map[string]string{
		refusal: "container 3f2a91 uses the host's network, and no cgroup of its own tells it from the host's processes: boot with cgroup v2 [host-network]",
		"OCI runtime create failed: taskrole: no [x]\n": "no [x]",
		"something else": "something else",
		"":               "",
	} {
		if got := sentence(in); got != want {
			t.Errorf("sentence(%q) = %q, want %q", in, got, want)
		}
	}
	if got := phrase(noCreds); got != "no EC2 IMDS role found" {
		t.Errorf("phrase = %q", got)
	}
	if got := phrase(strings.Repeat("x", 100)); len([]rune(got)) != 60 || !strings.HasSuffix(got, "…") {
		t.Errorf("phrase of an unknown error = %q", got)
	}
}
