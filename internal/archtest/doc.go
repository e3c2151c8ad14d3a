// Package archtest holds the rules of the house as tests: who may import whom, which package is the only door to
// which library, that the documents say what the code does.
//
// It has no code of its own and nobody imports it. The import table is in table_test.go; ARCHITECTURE.md shows the
// same table, written by `go test ./internal/archtest -update`.
package archtest
