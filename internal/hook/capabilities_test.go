package hook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfinedByTheBundle(t *testing.T) {
	const some = `["CAP_CHOWN","CAP_KILL"]`
	for config, want := range map[string]bool{
		`{"process":{"capabilities":{"bounding":` + some + `,"effective":` + some + `}}}`: true,
		`{"process":{"capabilities":{"bounding":[]}}}`:                                    true,
		`{"process":{"capabilities":{"bounding":["CAP_NET_RAW"]}}}`:                       false,
		`{"process":{"capabilities":{"bounding":[],"ambient":["CAP_NET_ADMIN"]}}}`:        false,
		`{"process":{"capabilities":{"bounding":["cap_net_raw"]}}}`:                       false,
		`{"process":{"capabilities":{"bounding":["ALL"]}}}`:                               false,
		`{"process":{"capabilities":{"effective":[]}}}`:                                   false, // what could be had is not said
		`{"process":{"capabilities":null}}`:                                               false,
		`{"process":{}}`:                                                                  false,
		`{}`:                                                                              false,
		`{"process":{"capabilities":{"bounding":"none"}}}`:                                false,
		`not JSON`: false,
		`{"process":{"capabilities":{"bounding":[]}}, "x":"` + strings.Repeat("x", maxConfig) + `"}`: false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := confined(dir); got != want {
			t.Errorf("%.100s: confined = %v, want %v", config, got, want)
		}
	}
	for _, bundle := range []string{"", t.TempDir(), "/nonexistent"} {
		if confined(bundle) {
			t.Errorf("bundle %q without a config.json counts as confined", bundle)
		}
	}
}
