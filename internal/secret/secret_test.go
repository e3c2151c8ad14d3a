package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"taskrole/internal/secret"
)

const text = "wJalrXUtnFEMI/K7MDENG"

// holder keeps the value where fmt may not call its methods.
type holder struct {
	hidden secret.Value
	Shown  secret.Value
	Map    map[string]secret.Value
	Any    any
}

func TestNoVerbPrintsTheText(t *testing.T) {
	v := secret.New(text)
	creds := secret.Credentials{AccessKeyID: "ASIA", SecretAccessKey: v, SessionToken: v, Expires: time.Unix(1, 0)}
	h := holder{hidden: v, Shown: v, Map: map[string]secret.Value{"k": v}, Any: v}
	for _, what := range []any{v, &v, h, &h, []secret.Value{v}, creds, &creds, []any{h, creds}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t"} {
			got := fmt.Sprintf(verb, what)
			if strings.Contains(got, text) || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", text)) {
				t.Errorf("Sprintf(%q, %T) shows the secret: %s", verb, what, got)
			}
		}
	}
}

func TestEncodersRedact(t *testing.T) {
	v := secret.New(text)
	creds := secret.Credentials{SecretAccessKey: v, SessionToken: v}
	b, err := json.Marshal(map[string]any{"v": v, "c": creds, "h": holder{Shown: v}})
	if err != nil {
		t.Fatal(err)
	}
	var logs bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		slog.New(h).Info("x", slog.Any("v", v), slog.Any("creds", creds), slog.Any("holder", holder{hidden: v}))
	}
	for _, out := range []string{string(b), logs.String()} {
		if strings.Contains(out, text) {
			t.Errorf("encoded output shows the secret: %s", out)
		}
	}
}

func TestRevealAndEmpty(t *testing.T) {
	if got := secret.New(text).Reveal(); got != text {
		t.Errorf("Reveal() = %q, want %q", got, text)
	}
	var zero secret.Value
	if zero.Reveal() != "" || !zero.Empty() || !secret.New("").Empty() || secret.New(text).Empty() {
		t.Error("Empty or Reveal is wrong for a zero or an empty value")
	}
	if !secret.New(text).Equal(secret.New(text)) || secret.New(text).Equal(zero) {
		t.Error("Equal compares something else than the text")
	}
}

func TestCompleteNeedsEveryPart(t *testing.T) {
	v := secret.New(text)
	full := secret.Credentials{AccessKeyID: "ASIA", SecretAccessKey: v, SessionToken: v, Expires: time.Unix(1, 0)}
	if !full.Complete() {
		t.Error("Complete() = false for a full set")
	}
	for name, drop := range map[string]func(*secret.Credentials){
		"key id":  func(c *secret.Credentials) { c.AccessKeyID = "" },
		"secret":  func(c *secret.Credentials) { c.SecretAccessKey = secret.Value{} },
		"token":   func(c *secret.Credentials) { c.SessionToken = secret.New("") },
		"expires": func(c *secret.Credentials) { c.Expires = time.Time{} },
	} {
		c := full
		drop(&c)
		if c.Complete() {
			t.Errorf("Complete() = true without %s", name)
		}
	}
}
