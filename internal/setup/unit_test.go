package setup_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"taskrole/internal/config"
	"taskrole/internal/testkit"
)

func TestFirstConfigurationIsGood(t *testing.T) {
	w := newTree(t)
	w.install()
	if _, err := config.Load(filepath.Join(w.Root, "/etc/taskrole/config.yaml")); err != nil {
		t.Error(err)
	}
}

// systemd's own judgement of the unit: no word in it that it does not know, and an exposure that may not grow unnoticed.
func TestUnitIsUnderstoodBySystemdAndHardened(t *testing.T) {
	testkit.Need(t, testkit.SystemdAnalyze)
	const most = 3.5 // 3.3 with systemd 252
	w := newTree(t)
	w.install()
	// Where the unit says, there is no program on this machine; and the manual is not what is judged here.
	text := strings.Replace(w.read("/etc/systemd/system/taskrole.service"), "/usr/local/bin/taskrole-agent", "/bin/true", 1)
	text = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAllString(text, "")
	file := filepath.Join(t.TempDir(), "taskrole.service")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "--no-pager", "--offline=true", "security", file).CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for taskrole.service: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
		t.Errorf("the exposure level is %s, more than %.1f:\n%s", m[1], most, out)
	}
}
