package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestAnswersAreReadToTheirLengthAndTheConnectionCanGoOn(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	for _, want := range []string{"abc", ""} {
		if got, err := readAnswer(r, nil); err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

func TestWhatIsNoAnswerOfOursIsAFailure(t *testing.T) {
	for _, text := range []string{
		"", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
	} {
		if got, err := readAnswer(bufio.NewReader(strings.NewReader(text)), nil); err == nil {
			t.Errorf("%q was read as %q", text, got)
		}
	}
}

func TestProcessorTimeIsUserAndSystemWhateverTheName(t *testing.T) {
	got, err := parseCPU("7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 100 1 1")
	if want := 2 * time.Second; err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := parseCPU("7 (a) S 1"); err == nil {
		t.Error("a short line was read")
	}
}

func TestOurOwnProcessIsRead(t *testing.T) {
	if kib, err := resident(1); err != nil || kib < 0 {
		t.Errorf("RSS %v, %v", kib, err)
	}
	if s := describeMachine(); !strings.Contains(s, "Linux ") || !strings.Contains(s, "processors") {
		t.Errorf("machine %q", s)
	}
}

func TestVerdictsAndStrictness(t *testing.T) {
	r := report{figures: []figure{
		{what: "ratio", unit: "µs", ours: 30, bare: 20, ratio: 1.5, compared: true, byRatio: true, most: 1.5},
		{what: "ratio missed", unit: "µs", ours: 30, bare: 20, ratio: 1.51, compared: true, byRatio: true, most: 1.5},
		{what: "count", ours: 1, most: 0},
		{what: "none", unit: "ms", ours: 9, noBudget: true},
	}}
	if got := r.missed(); got != 2 {
		t.Errorf("%d missed, want 2", got)
	}
	var text strings.Builder
	r.text(&text)
	for _, out := range []string{text.String(), r.markdown()} {
		if got := strings.Count(out, "NOT MET"); got != 2 {
			t.Errorf("%d rows are not met, want 2 in\n%s", got, out)
		}
	}
}

func TestMedianDoesNotDisturbTheRounds(t *testing.T) {
	v := []float64{3, 1, 2}
	if got := median(v); got != 2 || v[0] != 3 {
		t.Errorf("median %v of %v", got, v)
	}
}

func TestOrdersUntilTheEndOfInput(t *testing.T) {
	var out bytes.Buffer
	if err := obey(t.Context(), strings.NewReader(`{"Workers":0}{"Workers":0}`), &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Errorf("%d answers, want 2: %s", got, out.String())
	}
	if err := obey(t.Context(), strings.NewReader("x"), io.Discard); err == nil {
		t.Error("nonsense was obeyed")
	}
}

func TestWrongCommandLinesAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--rounds=0"}, {"--nonsense"}, {"more"}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit status %d, want 2", args, code)
		}
	}
}
