// Package systemd tries the unit under a real systemd: `make test-systemd`.
//
// The machine's own systemd and Docker are started again on a copy of its root file system, which goes away with the
// test, in namespaces of their own and without a network. There `taskrole setup` runs as on a host. What the unit takes
// from the agent (capabilities, system calls, paths) shows itself only here: the other tests run the agent as plain root.
package systemd
