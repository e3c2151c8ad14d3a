// Package integration drives the built programs against real container engines: two Docker versions, Podman and
// containerd, each as a private daemon inside a simulated EC2 instance, with a real agent beside it and real
// containers.
//
// It has no code of its own; the tests are built with the tag integration, need root, and are started by
// `make test-integration`, which builds the programs and the engines first. Started in another way they look for
// both where TASKROLE_TEST_BIN and TASKROLE_TEST_ENGINES say. An instance and its engine are started once for all
// tests and taken down after the last, whatever happened; then they look for what was left behind.
package integration
