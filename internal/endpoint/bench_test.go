package endpoint_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"taskrole/internal/address"
	"taskrole/internal/container"
	"taskrole/internal/endpoint"
	"taskrole/internal/secret"
)

// BenchmarkKeepAlive is one request on an open connection, beside a bare net/http handler that writes the same bytes.
func BenchmarkKeepAlive(b *testing.B) {
	creds := theCredentials()
	h := endpoint.New(endpoint.Options{
		Container: container.Container{ID: theID}, Role: "app", RoleARN: theRole,
		Credentials: func() (secret.Credentials, error) { return creds, nil },
	})
	s := endpoint.NewServer(nil)
	defer s.Close()
	var body []byte
	b.Run("taskrole", func(b *testing.B) {
		keepAlive(b, func(c net.Conn) { s.Handle(claimed{c, net.TCPAddrFromAddrPort(address.ECS), &world{}}, h) }, &body)
	})
	handed := make(chan net.Conn)
	defer close(handed)
	go func() {
		_ = http.Serve(fed{handed}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"application/json"}
			w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
			_, _ = w.Write(body)
		}))
	}()
	b.Run("bare", func(b *testing.B) { keepAlive(b, func(c net.Conn) { handed <- c }, &body) })
}

type fed struct{ conns chan net.Conn }

func (f fed) Accept() (net.Conn, error) {
	c, ok := <-f.conns
	if !ok {
		return nil, io.EOF
	}
	return c, nil
}
func (fed) Close() error   { return nil }
func (fed) Addr() net.Addr { return &net.TCPAddr{} }

func keepAlive(b *testing.B, serve func(net.Conn), body *[]byte) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	serve(c)
	const request = "GET /v2/credentials/app HTTP/1.1\r\nHost: 169.254.170.2\r\nUser-Agent: bench\r\nAccept-Encoding: gzip\r\n\r\n"
	r := bufio.NewReader(client)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := io.WriteString(client, request); err != nil {
			b.Fatal(err)
		}
		size, err := skipHeader(r)
		if err == nil {
			*body = slices.Grow(*body, size)[:size]
			_, err = r.Discard(size)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// skipHeader reads an answer as far as its body, costing no memory, and returns the body's length.
func skipHeader(r *bufio.Reader) (size int, err error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) == len("\r\n") {
			return size, nil
		}
		if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(rest))); err != nil {
				return 0, err
			}
		}
	}
}
