package hostrole_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo terminal.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return person, program
}

func TestTheTerminalIsTheCommandsAndCtrlCReachesItOnce(t *testing.T) {
	a := startAgent(t, hourly)
	person, program := terminal(t)
	const script = `test -t 0 && test -t 1 && echo terminal; n=0; trap 'n=$((n+1)); echo "interrupt $n"' INT; echo ready
		read line; read line; echo "line $line"; exit 9`
	cmd := exec.CommandContext(t.Context(), self(t), "taskrole-exec", a.socket, "bash", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := cmd.Start()
	_ = program.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(person); s.Scan(); { // ends with EIO, when nobody has the other side
			lines <- strings.TrimSpace(s.Text())
		}
	}()
	var heard []string
	for deadline := time.After(20 * time.Second); ; {
		var line string
		var open bool
		select {
		case line, open = <-lines:
		case <-deadline:
			t.Errorf("no end after 20 s: %q", heard)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return
		}
		if !open {
			break
		}
		heard = append(heard, line)
		switch {
		case line == "ready":
			_, _ = person.WriteString("\x03\n")
		case strings.Contains(line, "interrupt 1"):
			_, _ = person.WriteString("typed\n")
		}
	}
	_ = cmd.Wait()
	all := strings.Join(heard, "\n")
	if cmd.ProcessState.ExitCode() != 9 || !strings.Contains(all, "terminal\n") || !strings.Contains(all, "line typed") || strings.Contains(all, "interrupt 2") {
		t.Errorf("%v; the terminal shows\n%s", cmd.ProcessState, all)
	}
}
