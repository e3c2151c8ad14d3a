package launch

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlagsInFrontOfTheImage(t *testing.T) {
	for line, want := range map[string][]flag{
		"alpine ls --runtime x":            nil,
		"-it --rm alpine -e A=b":           {{"interactive", "true"}, {"tty", "true"}, {"rm", "true"}},
		"--name n -e A=b alpine":           {{"name", "n"}, {"env", "A=b"}},
		"--name=n --env=A alpine":          {{"name", "n"}, {"env", "A"}},
		"-eA=b -e=C=d -itv /a:/b alpine":   {{"env", "A=b"}, {"env", "C=d"}, {"interactive", "true"}, {"tty", "true"}, {"volume", "/a:/b"}},
		"-d=false -P alpine":               {{"detach", "false"}, {"publish-all", "true"}},
		"--rm -- alpine --label l":         {{"rm", "true"}},
		"--brand-new alpine --label l":     nil, // alpine may be its value, or the image
		"--brand-new=1 --label l alpine":   {{"brand-new", "1"}, {"label", "l"}},
		"-l a=b -Z alpine --label l":       {{"label", "a=b"}},
		"--entrypoint --runtime alpine":    {{"entrypoint", "--runtime"}}, // as docker takes it
		"--env":                            nil,
		"--replace --tls-verify=false ubi": {{"replace", "true"}, {"tls-verify", "false"}},
	} {
		if d := cmp.Diff(want, flagsOf(strings.Fields(line)), cmp.AllowUnexported(flag{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
}

func TestNoFlagIsASwitchAndTakesAValue(t *testing.T) {
	for name := range switches {
		if values[name] {
			t.Errorf("%s is in both lists", name)
		}
	}
	for letter, name := range short {
		if !switches[name] && !values[name] {
			t.Errorf("-%c stands for %s, which is in no list", letter, name)
		}
	}
}

func FuzzFlags(f *testing.F) {
	for _, line := range []string{"-it --rm a", "-eA=b\x00c", "--=", "-", "--", "-e", "-i=", "--env \x00"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		if found := flagsOf(args); len(found) > len(line) {
			t.Errorf("%d flags in %q", len(found), line)
		}
	})
}
