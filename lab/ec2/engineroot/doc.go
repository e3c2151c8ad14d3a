// Package engineroot is the supervisor of one private container engine: a process of its own between the lab and
// its daemon, which makes the engine's mounts and cgroups, starts it, and removes all of it again.
//
// It is a separate process for two reasons. The mounts must be made by a process that is alone in its mount
// namespace, which a Go program with its threads can only be from its birth. And somebody must clean up when the lab
// is killed: the supervisor notices that by the end of its standard input, and does the same as at an orderly end.
// It is Go and not a script around unshare and mount, so that it needs no tool in the machine or in the engine's
// root file system, and says which step failed.
//
// It refuses to touch anything but the directory and the cgroup it is given: what it mounts is visible in its own
// mount namespace only, it removes files only after every mount below them is gone, and it never looks for a
// process but in its own cgroup. It knows nothing of the instance: its parent puts it into the right network.
package engineroot
