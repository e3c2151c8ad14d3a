// Command client is what the tests of lab/ec2 run in containers: static, and small enough to import quickly.
//
//	client METHOD URL   print the answer's body; status 1 is a time-out, 2 any other error
//	client env          print the environment
//	client wait         until it is killed
//
// Under the name of dockerd it is a daemon that cannot start.
package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "dockerd" {
		os.Exit(brokenDaemon())
	}
	switch os.Args[1] {
	case "env":
		_, _ = io.WriteString(os.Stdout, strings.Join(os.Environ(), "\n"))
	case "wait":
		<-time.After(time.Hour) // an empty select would be a deadlock, and end
	default:
		os.Exit(ask(os.Args[1], os.Args[2]))
	}
}

func ask(method, url string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 3
	}
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return 1
	}
	if err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error())
		return 2
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(os.Stdout, resp.Body)
	return 0
}

func brokenDaemon() int {
	if os.Args[1] == "--version" {
		_, _ = io.WriteString(os.Stdout, "Docker version 28.5.2, build 0\n")
		return 0
	}
	_, _ = io.WriteString(os.Stderr, "level=info msg=\"starting\"\nlevel=fatal msg=\"the disk is on fire\"\n")
	return 1
}
