// Fetch is the smallest client there can be: it gets one credential, and prints when it had it. Test/bench starts it in
// fresh containers; apart from that program, because what a large one does before main would be timed with it.
package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := fetch(os.Args[1:], os.Stdout); err != nil {
		_, _ = os.Stderr.WriteString("fetch: " + err.Error() + "\n") // there is nobody else to tell
		os.Exit(1)
	}
}

const patience = 20 * time.Second

// fetch asks the server at args[0] for the path args[1]. The time is of the clock that all processes of a host share.
func fetch(args []string, stdout io.Writer) error {
	const addr, path, count = 0, 1, 2
	if len(args) != count {
		return errors.New("usage: fetch ADDRESS PATH")
	}
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), "tcp", args[addr])
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // all of the answer has been read
	host, _, err := net.SplitHostPort(args[addr])
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET "+args[path]+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	at := time.Now()
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || !bytes.Contains(answer, []byte("AccessKeyId")) {
		return errors.New("not a credential: " + strconv.Quote(string(answer[:min(len(answer), 80)])))
	}
	_, err = io.WriteString(stdout, strconv.FormatInt(at.UnixNano(), 10)+"\n")
	return err
}
