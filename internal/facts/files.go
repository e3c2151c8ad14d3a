package facts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"taskrole/internal/diagnose"
	"taskrole/internal/secret"
)

// see reads what AWS clients read below the process's root, if that answers in time.
func (p *Process) see(ctx context.Context, r *raw, f *diagnose.Facts) {
	r.home = either(r.text["HOME"], "/")
	f.Subject.Home = clean(r.home, maxShown)
	if p.root == nil {
		return
	}
	g, err := held(ctx, p, fileLimit, func() (*files, error) { return p.files(r), nil })
	if err != nil {
		p.blind("its files", err)
		return
	}
	f.Subject.Home, f.Net.Resolver, r.home, r.header = clean(g.home, maxShown), g.resolver, g.home, g.header
	f.Credentials, f.Config, f.HomeFile, f.TokenFile, f.WebIdentity = g.credentials, g.config, g.homeFile, g.token, g.identity
}

// files is what is in them.
type files struct {
	home, resolver                                 string
	credentials, config, homeFile, token, identity diagnose.File
	header                                         secret.Value // of the token's file, as it is sent
}

func (p *Process) files(r *raw) *files {
	g := &files{home: p.home(r)}
	standard := path.Join(g.home, ".aws/credentials")
	g.credentials = p.profiles(either(r.text["AWS_SHARED_CREDENTIALS_FILE"], standard), false)
	g.config = p.profiles(either(r.text["AWS_CONFIG_FILE"], path.Join(g.home, ".aws/config")), true)
	g.homeFile = g.credentials
	if g.credentials.Path != standard {
		g.homeFile = p.profiles(standard, false)
	}
	if name := r.text["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]; name != "" {
		g.token, g.header = p.token(name)
	}
	if name := r.text["AWS_WEB_IDENTITY_TOKEN_FILE"]; name != "" {
		g.identity, _ = p.token(name)
	}
	if b, err := p.read("/etc/resolv.conf"); err == nil {
		g.resolver = resolver(b)
	}
	return g
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// home is where ~ leads: $HOME, else what the container's own passwd says.
func (p *Process) home(r *raw) string {
	if h := r.text["HOME"]; h != "" {
		return h
	}
	if p.root == nil {
		return "/"
	}
	b, err := p.read("/etc/passwd")
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(b)) {
		const uid, dir, fields = 2, 5, 7
		if w := strings.Split(strings.TrimSpace(line), ":"); len(w) == fields && w[uid] == strconv.Itoa(p.user.uid) {
			return w[dir]
		}
	}
	return "/"
}

func (p *Process) profiles(name string, config bool) diagnose.File {
	file, b := p.file(name)
	if file.State == diagnose.Read {
		file.Profiles = profiles(b, config)
		file.Empty = len(b) == 0
	}
	return file
}

func (p *Process) token(name string) (diagnose.File, secret.Value) {
	file, b := p.file(name)
	text := string(b)
	file.Empty, file.Newline = strings.TrimSpace(text) == "", strings.ContainsAny(text, "\r\n")
	return file, secret.New(strings.TrimSpace(text))
}

// file reads one file and says how that went.
func (p *Process) file(name string) (diagnose.File, []byte) {
	file := diagnose.File{Path: clean(name, maxShown), State: diagnose.Read}
	if strings.HasPrefix(name, "~/") {
		name = path.Join("/", name[2:]) // as it stands: who did not expand it does not find it either
	}
	b, err := p.read(name)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		file.State = diagnose.Missing
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		file.State, file.Why = diagnose.Unreadable, fmt.Sprintf("user %d may not read it", p.user.uid)
	default:
		file.State, file.Why = diagnose.Odd, cause(err)
	}
	return file, b
}

// cause is an error without the path that we looked through.
func cause(err error) string {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// read reads a file below the process's root with the process's own rights. No link leads out of that root.
func (p *Process) read(name string) ([]byte, error) {
	return onThread(func() ([]byte, error) {
		if err := p.user.become(); err != nil {
			return nil, err
		}
		file, err := openIn(p.root, name, false)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // only read
		return readFrom(file)
	})
}

// onThread runs f on a thread that ends afterwards, so that what f does to its own rights ends too.
func onThread[T any](f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, unless it is the main thread, which cannot end
		if unix.Gettid() == unix.Getpid() {
			v, err := onThread(f)
			runtime.UnlockOSThread()
			done <- answer{v, err}
			return
		}
		v, err := f()
		done <- answer{v, err}
	}()
	a := <-done
	return a.value, a.err
}

// Capabilities that let a process read what its user may not.
const dacCapabilities = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// become gives the calling thread, which must be about to end, the file rights of u. Without root it stays what it is.
func (u user) become() error {
	if os.Geteuid() != 0 {
		return nil
	}
	groups := make([]uint32, 0, len(u.groups)+1)
	for _, g := range u.groups {
		groups = append(groups, uint32(g)) //nolint:gosec // the kernel gave it as one
	}
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0]) //nolint:gosec // setgroups of the library is for all threads at once
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return fmt.Errorf("take the process's groups: %w", errno)
	}
	runtime.KeepAlive(groups)
	// Both return the old id and no error; asked once more, they tell what is set.
	_, _ = unix.SetfsgidRetGid(u.gid)
	if got, err := unix.SetfsgidRetGid(-1); err != nil || got != u.gid {
		return fmt.Errorf("take the process's group %d: it is %d", u.gid, got)
	}
	_, _ = unix.SetfsuidRetUid(u.uid)
	if got, err := unix.SetfsuidRetUid(-1); err != nil || got != u.uid {
		return fmt.Errorf("take the process's user %d: it is %d", u.uid, got)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("look at our capabilities: %w", err)
	}
	// After the change of the user the kernel has taken both away, or left them if the user is root.
	sets[0].Effective &^= dacCapabilities
	sets[0].Effective |= uint32(u.caps) & dacCapabilities & sets[0].Permitted //nolint:gosec // the lower half is meant
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("take the process's capabilities: %w", err)
	}
	return nil
}
