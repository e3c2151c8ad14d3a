//go:build conformance

package conformance_test

import (
	"context"
	"testing"

	"taskrole/test/conformance"
)

func vectors(_ context.Context, t *testing.T, _ []*world) []conformance.Verdict {
	t.Helper()
	return nil
}
