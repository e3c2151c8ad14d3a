package config_test

import (
	"path/filepath"
	"testing"

	"taskrole/internal/config"
)

func TestExamplesCanBeUsed(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/config.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for _, file := range append(files, "../../examples/config.yaml") {
		if _, err := config.Load(file); err != nil {
			t.Error(err)
		}
	}
}
