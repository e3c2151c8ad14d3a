package terminal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"taskrole/internal/terminal"
	"taskrole/internal/testkit"
)

func environment(kv ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				return kv[i+1]
			}
		}
		return ""
	}
}

func TestTerminalIsTold(t *testing.T) {
	tty := testkit.Terminal(t)
	if !terminal.Is(tty) {
		t.Error("a pseudoterminal is taken for something else")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, w := range []any{file, null, new(bytes.Buffer), nil} {
		if terminal.Is(w) {
			t.Errorf("%T %v is taken for a terminal", w, w)
		}
	}
	if terminal.Width(file, environment("COLUMNS", "40")) != 0 || terminal.Colour(file, environment("TERM", "xterm")) {
		t.Error("a file has a width or colours")
	}
}

func TestWidthOfATerminal(t *testing.T) {
	tty := testkit.Terminal(t)
	if got := terminal.Width(tty, environment()); got != 80 {
		t.Errorf("width that the kernel does not know = %d, want 80", got)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 132, Row: 40}); err != nil {
		t.Fatal(err)
	}
	if got := terminal.Height(tty); got != 40 {
		t.Errorf("height = %d, want 40", got)
	}
	for columns, want := range map[string]int{"": 132, "60": 60, "0": 132, "-1": 132, "wide": 132} {
		if got := terminal.Width(tty, environment("COLUMNS", columns)); got != want {
			t.Errorf("width with COLUMNS=%q = %d, want %d", columns, got, want)
		}
	}
}

func TestColourIsLeftOutWhereItIsNotWanted(t *testing.T) {
	tty := testkit.Terminal(t)
	for _, c := range []struct {
		env  []string
		want bool
	}{
		{[]string{"TERM", "xterm"}, true},
		{[]string{"TERM", "dumb"}, false},
		{[]string{"TERM", "xterm", "NO_COLOR", "1"}, false},
		{[]string{"TERM", "xterm", "NO_COLOR", ""}, true}, // as no-color.org has it
	} {
		if got := terminal.Colour(tty, environment(c.env...)); got != c.want {
			t.Errorf("Colour with %v = %t", c.env, got)
		}
	}
}

func TestUTF8IsTheFirstWordOfTheLocale(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want bool
	}{
		{nil, false},
		{[]string{"LANG", "C.UTF-8"}, true},
		{[]string{"LANG", "ja_JP.utf8"}, true},
		{[]string{"LANG", "en_US.UTF-8", "LC_ALL", "C"}, false},
		{[]string{"LANG", "C", "LC_CTYPE", "en_US.UTF-8"}, true},
	} {
		if got := terminal.UTF8(environment(c.env...)); got != c.want {
			t.Errorf("UTF8 with %v = %t", c.env, got)
		}
	}
}
