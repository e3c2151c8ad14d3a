//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taskrole/lab/ec2"
)

// oldKernelVerb makes this program become another one for which the kernel knows no BPF programs of any type, as one
// from before sk_lookup answers, and, with personality(2)'s UNAME26, calls itself 2.6.
const oldKernelVerb = "old-kernel"

func oldKernelMain(args []string) int {
	runtime.LockOSThread()
	const bpfProgLoad = 5
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the system call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // its first argument
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: bpfProgLoad, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	}
	if err == nil {
		const uname26 = 0x0020000
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uname26, 0, 0); errno != 0 {
			err = errno
		}
	}
	if err == nil {
		err = syscall.Exec(args[0], args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "become old:", err)
	return 1
}

// old is the command that becomes another one on an old kernel.
func old(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	return []string{self, oldKernelVerb}
}

// oldKernels: the agent and the doctor are on a kernel without sk_lookup, where an application that has port 80 of every
// address and the endpoint are in each other's way.
func (w *world) oldKernels(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	t.Cleanup(func() { w.restart(t) })
	w.restart(t, old(t)...)
	w.doctorThrough = old(t)
	defer func() { w.doctorThrough = nil }()
	w.try(t, all, []injected{
		{name: "old kernel, all well", c: ec2.Container{Role: "reader"}, source: "container endpoint"},
		{name: "old kernel, another port", c: ec2.Container{Role: "reader", Args: []string{"serve", "-listen=0.0.0.0:8080"}}, source: "container endpoint"},
	})
	app := ec2.Container{Name: "doctor-port-80", Image: "probe", Network: ec2.NetworkNone, Detach: true, Args: []string{"serve"}}
	w.live(t, app)
	w.try(t, all, []injected{{
		name: "port 80 of a shared network is taken", want: "port-conflict", evidence: "port 80",
		c: ec2.Container{Role: "reader", Network: "container:doctor-port-80", Options: confined},
	}, {
		name: "port 80 of a running container is taken", want: "port-conflict", evidence: "port 80",
		c: ec2.Container{Network: ec2.NetworkNone, Args: []string{"serve"}, Labels: map[string]string{"taskrole": "reader"}},
	}})
	d := w.diagnose(t)
	all.add(trial{"host: Linux before 5.9", w.name, "kernel-without-sk-lookup", d.codes(), d.Seconds})
}

// hosts are conditions of the machine, which doctor without a container names.
func (w *world) hosts(t *testing.T, _ *world, all *confusion) {
	t.Helper()
	host := func(name, want string, d diagnosis) {
		all.add(trial{"host: " + name, w.name, want, d.codes(), d.Seconds})
		injected{name: name, want: want}.judge(t, d)
	}
	host("all well", "", w.diagnose(t))
	text := func(text string) string {
		file := filepath.Join(t.TempDir(), "config.yaml")
		check(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	config := w.config()
	host("no configuration", "config-invalid", w.diagnoseBy(t, "/nowhere/config.yaml"))
	host("a configuration with a problem", "config-invalid", w.diagnoseBy(t, text(strings.Replace(config, "allow:", "alow:", 1))))
	host("engine away", "engine-unreachable", w.diagnoseBy(t, text(strings.Replace(config, w.docker.Host(), "unix:///nowhere.sock", 1))))
	check(t, w.stopAgent(os.Kill))
	host("agent away", "agent-down", w.diagnose(t))
	check(t, w.startAgent(t.Context()))
	// The machine's own hierarchies of cgroup v1, or one made for the purpose, and none of v2.
	w.doctorThrough = []string{
		"unshare", "--mount", "--propagation=private", "sh", "-c",
		`umount -R /sys/fs/cgroup/unified 2>/dev/null; [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] || {
			mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/old || exit 7
			mount -t cgroup -o none,name=taskrole-test none /sys/fs/cgroup/old; } # a kernel may have no v1 at all: then none is left
		exec "$@"`, "sh",
	}
	host("cgroup v1", "cgroup-v1", w.diagnose(t))
	w.doctorThrough = nil
}
