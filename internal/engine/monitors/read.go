package monitors

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// readSome reads a regular file, or one of /proc, up to a bound. It looks at what is there before it opens it for
// reading, as opening a device may do something, and a pipe would hold us up.
func readSome(name string, most int64) ([]byte, error) {
	there, err := os.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = there.Close() }() // only looked at
	st, err := there.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotRegular
	}
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(there.Fd())), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, errLarge
	}
	return b, err
}
