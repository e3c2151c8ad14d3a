package conformance_test

import (
	"strings"
	"testing"

	"taskrole/test/conformance"
)

// TestPredictionsAreWritten: what came true is told in a word, and what did not with both sides.
func TestPredictionsAreWritten(t *testing.T) {
	r := conformance.Predictions{
		Date: "2026-11-26", Conditions: []string{"keys", "nothing"}, Clients: []string{"boto3", "go-v2"},
		Cells: []conformance.Prediction{
			{Condition: "keys", Client: "boto3", Predicted: "environment", Seen: "environment", Agree: true},
			{Condition: "keys", Client: "go-v2", Predicted: "file p", Seen: "environment"},
			{Condition: "nothing", Client: "boto3", Predicted: "nowhere", Seen: "nowhere", Says: "Unable to", Reads: "Error: Unable to", Agree: true},
			{Condition: "nothing", Client: "go-v2", Predicted: "nowhere", Seen: "nowhere", Says: "one thing", Reads: "another"},
		},
	}
	var text, page strings.Builder
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.Markdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"environment (✗ said: file p)", "nowhere (✗ other words)", "2 of 4 predictions agree, 0 are known not to"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
	for _, want := range []string{"| keys | env | env (✗ said: file p) |", "\nnothing:\n\n- boto3: `Unable to`\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("%q is not in\n%s", want, page.String())
		}
	}
}
