// Package secret holds values that must never be printed: AWS secret access keys, session tokens, MAC keys.
//
// A Value hides its text from every fmt verb, from encoding/json, encoding/text and slog. Its bytes come out only
// through Reveal, a name that can be searched for; few packages call it, and the architecture test names them. The
// package refuses to be clever: it does not encrypt and does not wipe memory, since Go's garbage collector may
// have copied the text already.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every way of printing a Value yields.
const redacted = "REDACTED"

// Value is one secret string. The zero Value is empty. It may be copied and compared with Equal.
//
// The text hangs on a pointer on purpose: fmt does not call methods on unexported struct fields, and prints their
// contents instead; of a pointer it prints an address.
type Value struct{ text *string }

// New makes a Value of s.
func New(s string) Value { return Value{text: &s} }

// Reveal returns the text. Whoever calls it is responsible for where the text goes.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

// Empty says whether there is no text.
func (v Value) Empty() bool { return v.text == nil || *v.text == "" }

// Equal compares two values. It is not constant-time: use crypto/subtle where an attacker can measure.
func (v Value) Equal(w Value) bool { return v.Reveal() == w.Reveal() }

// String implements fmt.Stringer; it never shows the text.
func (Value) String() string { return redacted }

// GoString implements fmt.GoStringer; it never shows the text.
func (Value) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb at all shows the text.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which encoding/json uses too.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
