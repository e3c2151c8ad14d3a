package jsontext_test

import (
	"encoding/json"
	"testing"

	"taskrole/internal/jsontext"
)

func TestAddFollowsTheStyleAndRemoveUndoesIt(t *testing.T) {
	for before, want := range map[string]string{
		`{}`:                         `{"n": 7}`,
		"{\n}\n":                     "{\"n\": 7\n}\n",
		`{"a":1}`:                    `{"a":1,"n":7}`,
		`{ "a" : "," }`:              `{ "a" : ",", "n" : 7 }`,
		`{"a": 1, "b": {"n": 2}}`:    `{"a": 1, "b": {"n": 2}, "n": 7}`,
		"{\n\t\"a\": []\n}":          "{\n\t\"a\": [],\n\t\"n\": 7\n}",
		"{\r\n  \"a\": \"}\"\r\n}":   "{\r\n  \"a\": \"}\",\r\n  \"n\": 7\r\n}",
		` {"a": "\"", "b": [1,2] } `: ` {"a": "\"", "b": [1,2], "n": 7 } `,
	} {
		after := string(jsontext.Add([]byte(before), 0, "n", []byte("7")))
		if after != want {
			t.Errorf("Add(%q) = %q, want %q", before, after, want)
		}
		if back := string(jsontext.Remove([]byte(after), 0, "n")); back != before {
			t.Errorf("Remove(%q) = %q, want %q", after, back, before)
		}
	}
}

func TestRemoveTakesOneCommaWithIt(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a": 1, "b": 2, "c": 3}`, "a", `{"b": 2, "c": 3}`},
		{`{"a": 1, "b": 2, "c": 3}`, "b", `{"a": 1, "c": 3}`},
		{`{"a": 1, "b": 2, "c": 3}`, "c", `{"a": 1, "b": 2}`},
		{`{"a": 1}`, "a", `{}`},
		{`{"a": 1}`, "x", `{"a": 1}`},
	} {
		if got := string(jsontext.Remove([]byte(c[0]), 0, c[1])); got != c[2] || !json.Valid([]byte(got)) {
			t.Errorf("Remove(%s, %s) = %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestDocumentsThatTwoReadersReadDifferentlyAreRefused(t *testing.T) {
	for _, doc := range []string{`{"a":1,"a":2}`, `{"A":1}`, `{"a":1,"A":2}`} {
		if p, err := jsontext.Find([]byte(doc), 0, "a"); err == nil {
			t.Errorf("Find(%s) = %+v", doc, p)
		}
	}
	for _, doc := range []string{``, ` `, `[]`, `{`, `{} {}`, `"a"`, `{"a":01}`, "\ufeff{}"} {
		if err := jsontext.Check([]byte(doc), 100); err == nil {
			t.Errorf("Check(%q) finds nothing", doc)
		}
	}
}
