package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/PID/stat: USER_HZ is 100 on every architecture Go runs on. The kernel scales what it shows
// to the time a process really ran, so that nothing shorter is lost.
const tick = 10 * time.Millisecond

// cpuTime is what a process has used so far, in user and kernel mode together.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(text))
}

// parseCPU adds fields 14 and 15. The second field, the name, may hold anything.
func parseCPU(stat string) (time.Duration, error) {
	const utime, stime = 14 - 3, 15 - 3 // counted from the field after the name
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= stime {
		return 0, fmt.Errorf("unexpected process state %.64q", stat)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, err
	}
	kernel, err := strconv.ParseInt(fields[stime], 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(user+kernel) * tick, nil
}

// resident is a process's VmRSS in KiB.
func resident(pid int) (float64, error) {
	line, err := lineOf(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSuffix(line, " kB"), 64)
}

// lineOf returns what follows a word at the beginning of a line.
func lineOf(path, word string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), word); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("%s has no %q", path, word)
}

// describeMachine says what kind of machine this is, and nothing that names it.
func describeMachine() string {
	kind := "a machine"
	if flags, err := lineOf("/proc/cpuinfo", "flags"); err == nil && strings.Contains(flags+" ", " hypervisor ") {
		kind = "a virtual machine"
	}
	model := runtime.GOARCH
	if m, err := lineOf("/proc/cpuinfo", "model name"); err == nil {
		model = strings.NewReplacer("(R)", "", "(TM)", "").Replace(strings.TrimSpace(strings.TrimPrefix(m, ":")))
	}
	s := fmt.Sprintf("%s with %d processors (%s)", kind, runtime.NumCPU(), model)
	if m, err := lineOf("/proc/meminfo", "MemTotal:"); err == nil {
		if kib, err := strconv.ParseFloat(strings.TrimSuffix(m, " kB"), 64); err == nil {
			s += fmt.Sprintf(", %.0f GiB", kib/(1<<20))
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		major, rest, _ := strings.Cut(string(release), ".")
		minor, _, _ := strings.Cut(rest, ".")
		s += ", Linux " + major + "." + minor
	}
	return s + ", " + runtime.Version()
}

// loadAverage is that of the last minute: figures of a machine that was busy are worth less.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}
