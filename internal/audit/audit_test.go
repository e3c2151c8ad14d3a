package audit_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/audit"
	"taskrole/internal/diagnose"
)

var web = audit.Holder{Kind: "container", Name: "web", ID: "0123"}

// short is what matters of a holding.
func short(all []audit.Holding) (s []string) {
	for _, h := range all {
		s = append(s, string(h.Level)+" "+string(h.Rule)+" "+h.Identity+" "+h.How)
	}
	return s
}

func TestProcess(t *testing.T) {
	key := diagnose.Var{Kind: diagnose.LongLived, Masked: "AKIA…1234", Length: 20}
	file := diagnose.File{Path: "/root/.aws/credentials", State: diagnose.Read, Profiles: map[string]diagnose.Profile{
		"default": {Kind: diagnose.Temporary, Masked: "ASIA…1234", Secret: true}, "empty": {},
	}}
	for name, c := range map[string]struct {
		facts diagnose.Facts
		want  []string
	}{
		"nothing": {diagnose.Facts{}, nil},
		"keys":    {diagnose.Facts{Env: map[string]diagnose.Var{"AWS_ACCESS_KEY_ID": key}}, []string{"error long-lived-key AKIA…1234 environment of its process (AWS_ACCESS_KEY_ID)"}},
		"one file by two ways": {
			diagnose.Facts{Credentials: file, HomeFile: file},
			[]string{"warning temporary-key ASIA…1234 /root/.aws/credentials, profile \"default\""},
		},
		"role":               {diagnose.Facts{Role: diagnose.Role{Name: "app", ARN: "arn:x"}}, []string{"none task-role app taskrole, arn:x"}},
		"host":               {diagnose.Facts{IMDS: diagnose.IMDS{Role: "ec2"}}, []string{"warning host-role ec2 instance metadata over its network"}},
		"its own IMDS":       {diagnose.Facts{IMDS: diagnose.IMDS{Role: "app", Local: true}}, nil},
		"not to be seen":     {diagnose.Facts{Unseen: []string{"its files: no"}}, []string{"warning unseen  its files: no"}},
		"role, and the host": {diagnose.Facts{Role: diagnose.Role{Name: "app"}, IMDS: diagnose.IMDS{Role: "ec2"}}, []string{"none task-role app taskrole", "warning host-role ec2 instance metadata over its network"}},
	} {
		if diff := cmp.Diff(c.want, short(audit.Process(web, &c.facts))); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestTheWorstComesFirstAndOnce(t *testing.T) {
	all := audit.Process(web, &diagnose.Facts{Role: diagnose.Role{Name: "app"}, IMDS: diagnose.IMDS{Role: "ec2"}})
	all = append(all, audit.Keys(web, []audit.Key{{Kind: diagnose.LongLived, Masked: "AKIA…1"}, {Kind: diagnose.LongLived, Masked: "AKIA…1"}}, "history")...)
	all = append(all, audit.Mounts(web, []string{"/data", "/root/.aws", "/home/x/.aws/config"})...)
	got := short(audit.Sort(all))
	want := []string{
		"error long-lived-key AKIA…1 history", "warning host-role ec2 instance metadata over its network",
		"warning mounted-profile  mounted at /home/x/.aws/config", "warning mounted-profile  mounted at /root/.aws", "none task-role app taskrole",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSARIF(t *testing.T) {
	all := audit.Keys(audit.Holder{Kind: "image", Name: "a/b:c d"}, []audit.Key{{Kind: diagnose.LongLived, Masked: "AKIA…1"}}, "history")
	all = append(all, audit.Process(web, &diagnose.Facts{Role: diagnose.Role{Name: "app"}})...)
	b, err := audit.SARIF(all, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Version string
		Schema  string `json:"$schema"`
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
				}
				PartialFingerprints map[string]string
			}
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "2.1.0" || doc.Schema == "" || len(doc.Runs) != 1 || len(doc.Runs[0].Results) != 1 {
		t.Fatalf("not one run with one result: %s", b)
	}
	r, listed := doc.Runs[0].Results[0], doc.Runs[0].Tool.Driver.Rules
	if r.RuleID != "long-lived-key" || listed[r.RuleIndex].ID != r.RuleID || r.Level != "error" || r.Message.Text != "image a/b:c d: AKIA…1: history" ||
		r.Locations[0].PhysicalLocation.ArtifactLocation.URI != "image/a/b:c%20d" || len(r.PartialFingerprints) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestManualHasAHeadingForEveryRule(t *testing.T) {
	b, err := os.ReadFile("../../doc/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	var headings []audit.Rule
	for _, m := range regexp.MustCompile(`(?m)^### (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		headings = append(headings, audit.Rule(m[1]))
	}
	if diff := cmp.Diff(audit.Rules(), headings); diff != "" {
		t.Errorf("doc/audit.md and the rules differ:\n%s", diff)
	}
}
