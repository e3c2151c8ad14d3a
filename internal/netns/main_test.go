package netns_test

import (
	"os"
	"testing"

	"taskrole/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }
