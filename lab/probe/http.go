package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// bodyLimit bounds what get prints of a body.
const bodyLimit = 1 << 20

// get makes one request with no AWS in it and prints status, headers and body. It follows no redirect, and no proxy
// unless told: the address in the URL is the one that is tried.
func get(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	method := f.String("X", http.MethodGet, "method")
	body := f.String("d", "", "request `body`")
	proxy := f.Bool("proxy", false, "use the proxy the environment names")
	timeout := f.Duration("timeout", 10*time.Second, "give up after this `time`")
	header := http.Header{}
	f.Func("H", "one more header, `KEY: VALUE`", func(s string) error {
		k, v, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("expected KEY: VALUE")
		}
		header.Add(strings.TrimSpace(k), strings.TrimSpace(v))
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("expected one URL, after the flags")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, *method, f.Arg(0), strings.NewReader(*body))
	if err != nil {
		return err
	}
	req.Header = header
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	if *proxy {
		transport.Proxy = http.ProxyFromEnvironment
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return exchange(client, req, out)
}

func exchange(client *http.Client, req *http.Request, out io.Writer) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit))
	if err != nil {
		return err
	}
	var header strings.Builder
	if err := resp.Header.Write(&header); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s %s\n%s\n%s\n", resp.Proto, resp.Status, header.String(), body)
	return err
}

// servers are the HTTP servers of one run; they live until it ends.
type servers struct {
	all    []*http.Server
	failed chan error
}

// serve is an application that listens itself: on port 80 of every address, as web containers do.
func (s *servers) serve(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := f.String("listen", "0.0.0.0:80", "`address` to listen on")
	text := f.String("text", "the application itself", "what to answer")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "listening on %s\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, *text+"\n") // the client may be gone
		}),
	}
	if s.failed == nil {
		s.failed = make(chan error, 1)
	}
	s.all = append(s.all, server)
	failed := s.failed
	go func() { // ends with close
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			select {
			case failed <- err:
			default:
			}
		}
	}()
	return nil
}

// wait blocks while something is served: until ctx ends, which is how a server is meant to end, or until it breaks.
func (s *servers) wait(ctx context.Context) error {
	if len(s.all) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

func (s *servers) close() {
	for _, server := range s.all {
		_ = server.Close() // we are leaving
	}
}
