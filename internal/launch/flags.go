package launch

import "strings"

// The flags of docker run and podman run, by whether they take a value. A flag that is in neither is one of an engine
// that is newer than this list: what follows it could be its value or the image, so nobody guesses.
var (
	switches = set(`detach disable-content-trust help init interactive no-healthcheck oom-kill-disable privileged
		publish-all quiet read-only rm sig-proxy tty use-api-socket
		env-host http-proxy no-hostname no-hosts passwd read-only-tmpfs replace rmi rootfs tls-verify unsetenv-all`)
	values = set(`add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns
		cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus
		cpuset-mems detach-keys device device-cgroup-rule device-read-bps device-read-iops device-write-bps
		device-write-iops dns dns-opt dns-option dns-search domainname entrypoint env env-file expose gpus group-add
		health-cmd health-interval health-retries health-start-interval health-start-period health-timeout hostname
		io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link link-local-ip log-driver
		log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name net net-alias network
		network-alias oom-score-adj pid pids-limit platform publish pull restart runtime security-opt shm-size
		stop-signal stop-timeout storage-opt sysctl tmpfs ulimit user userns uts volume volume-driver volumes-from
		workdir
		arch authfile cgroup-conf cgroups chrootdirs conmon-pidfile creds decryption-key env-merge gidmap group-entry
		health-on-failure health-startup-cmd hostuser image-volume init-path os passwd-entry personality pidfile pod
		pod-id-file preserve-fds requires retry retry-delay rdt-class seccomp-policy secret shm-size-systemd
		subgidname subuidname systemd timeout tz uidmap umask unsetenv variant`)
	// short has the flags of one letter.
	short = map[byte]string{
		'a': "attach", 'c': "cpu-shares", 'd': "detach", 'e': "env", 'h': "hostname", 'i': "interactive", 'l': "label",
		'm': "memory", 'p': "publish", 'P': "publish-all", 'q': "quiet", 't': "tty", 'u': "user", 'v': "volume", 'w': "workdir",
	}
)

func set(words string) map[string]bool {
	s := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		s[w] = true
	}
	return s
}

// flag is one flag with its value as it was written; "true" for a switch.
type flag struct{ name, value string }

// flagsOf returns the flags in front of the image. It stops at the first it does not know.
func flagsOf(args []string) []flag {
	var found []flag
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		var more []flag
		var wants string // the last one's name, if its value is the next word
		var ok bool
		switch {
		case word == "--" || word == "-" || !strings.HasPrefix(word, "-"):
			return found
		case strings.HasPrefix(word, "--"):
			more, wants, ok = long(word[2:])
		default:
			more, wants, ok = cluster(word[1:])
		}
		found = append(found, more...)
		if !ok || wants != "" && len(args) == 0 {
			return found
		}
		if wants != "" {
			found = append(found, flag{wants, args[0]})
			args = args[1:]
		}
	}
	return found
}

func long(word string) (flags []flag, wants string, ok bool) {
	name, value, given := strings.Cut(word, "=")
	switch {
	case given:
		return []flag{{name, value}}, "", true // whatever it is, its value is not the next word
	case switches[name]:
		return []flag{{name, "true"}}, "", true
	case values[name]:
		return nil, name, true
	}
	return nil, "", false
}

// cluster is flags of one letter behind one dash, of which the last may have a value: -it, -itv /a:/b, -eA=b, -e=A=b.
func cluster(word string) (flags []flag, wants string, ok bool) {
	for i := range len(word) {
		name, known := short[word[i]]
		rest := word[i+1:]
		switch {
		case !known:
			return flags, "", false
		case switches[name] && strings.HasPrefix(rest, "="):
			return append(flags, flag{name, rest[1:]}), "", true
		case switches[name]:
			flags = append(flags, flag{name, "true"})
		case rest == "":
			return flags, name, true
		default:
			return append(flags, flag{name, strings.TrimPrefix(rest, "=")}), "", true
		}
	}
	return flags, "", true
}
