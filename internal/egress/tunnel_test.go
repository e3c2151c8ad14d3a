package egress_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"taskrole/internal/egress"
)

// pipes is a listener without a network, so that time can be false.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inTunnel gives f both ends of a tunnel under false time: the client's, and the service's.
func inTunnel(t *testing.T, f func(client *bufio.ReadWriter, clientConn, service net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		serviceEnd, proxyEnd := net.Pipe()
		p, err := egress.New(egress.Options{
			Region: "eu-west-1", Services: []string{"s3"}, Idle: time.Minute,
			Lookup: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("203.0.113.1")}, nil
			},
			Dial: func(context.Context, string, string) (net.Conn, error) { return proxyEnd, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		l := make(pipes)
		srv := &http.Server{Handler: p, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
		done := make(chan error)
		go func() { done <- srv.Serve(l) }()
		client, accepted := net.Pipe()
		l <- accepted
		go fmt.Fprintf(client, "CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n", s3Host)
		rw := bufio.NewReadWriter(bufio.NewReader(client), bufio.NewWriter(client))
		if line, err := rw.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = rw.ReadString('\n')
		f(rw, client, serviceEnd)
		client.Close()
		serviceEnd.Close()
		p.Close()
		close(l)
		srv.Close()
		<-done
	})
}

func TestASilentTunnelEndsAndABusyOneDoesNot(t *testing.T) {
	inTunnel(t, func(client *bufio.ReadWriter, _, service net.Conn) {
		b := make([]byte, 1)
		for range 60 { // an hour of a download in which the client says nothing
			time.Sleep(59 * time.Second)
			if _, err := service.Write([]byte("x")); err != nil {
				t.Fatalf("a busy tunnel ended: %v", err)
			}
			if _, err := io.ReadFull(client, b); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if _, err := client.ReadByte(); err == nil || time.Since(start) > 2*time.Minute {
			t.Errorf("a silent tunnel ended after %s: %v", time.Since(start), err)
		}
	})
}

// A client that does not read holds its own tunnel up, and not for ever.
func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	inTunnel(t, func(_ *bufio.ReadWriter, _, service net.Conn) {
		start := time.Now()
		for {
			if _, err := service.Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		if time.Since(start) > 2*time.Minute {
			t.Errorf("it was held for %s", time.Since(start))
		}
	})
}

// wrapped hides what a TCP connection can do behind NetConn, as the agent's listener does.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

type wrappedListener struct{ net.Listener }

func (l wrappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrapped{c}, nil
}

// Each side may say that it is done and still listen, also with bytes sent before the proxy has answered.
func TestHalfCloseIsPassedOnBothWays(t *testing.T) {
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	go func() {
		for range 2 {
			c, err := origin.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c) // until the client is done
			fmt.Fprintf(c, "got %s", b)
			c.Close()
		}
	}()
	for _, early := range []bool{true, false} {
		p := newProxy(t, egress.Options{
			Region: "eu-west-1", Services: []string{"s3"},
			Lookup: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("203.0.113.1")}, nil
			},
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, origin.Addr().String())
			},
		})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: p}
		done := make(chan error)
		go func() { done <- srv.Serve(wrappedListener{l}) }()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		request := "CONNECT " + s3Host + ":443 HTTP/1.1\r\nHost: x\r\n\r\n"
		r := bufio.NewReader(c)
		if early {
			request += "hello"
		}
		fmt.Fprint(c, request)
		for range 2 {
			_, _ = r.ReadString('\n')
		}
		if !early {
			fmt.Fprint(c, "hello")
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(r); err != nil || string(b) != "got hello" {
			t.Errorf("early=%v: %q, %v", early, b, err)
		}
		c.Close()
		p.Close()
		srv.Close()
		<-done
	}
}

// Without the server's deadlines, which a large transfer would not keep, silence ends a plain request.
func TestASilentPlainRequestEndsAndASlowOneDoesNot(t *testing.T) {
	const head = "PUT http://10.99.0.1/key HTTP/1.1\r\nHost: 10.99.0.1\r\nContent-Length: 100\r\n\r\n"
	for name, pause := range map[string]time.Duration{"slow": 50 * time.Second, "silent": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				serviceEnd, proxyEnd := net.Pipe()
				p, err := egress.New(egress.Options{
					Endpoints: []string{"http://10.99.0.1"}, Idle: time.Minute,
					Dial: func(context.Context, string, string) (net.Conn, error) { return proxyEnd, nil },
				})
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					r, err := http.ReadRequest(bufio.NewReader(serviceEnd))
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						fmt.Fprint(serviceEnd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}()
				l := make(pipes)
				srv := &http.Server{Handler: p, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
				done := make(chan error)
				go func() { done <- srv.Serve(l) }()
				client, accepted := net.Pipe()
				l <- accepted
				start := time.Now()
				go func() {
					fmt.Fprint(client, head)
					for range 10 {
						select {
						case <-time.After(pause):
						case <-t.Context().Done():
							return
						}
						if _, err := client.Write(make([]byte, 10)); err != nil {
							return
						}
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err == nil {
					defer resp.Body.Close()
				}
				switch {
				case name == "slow" && (err != nil || resp.StatusCode != http.StatusOK):
					t.Errorf("a slow upload failed after %s: %v", time.Since(start), err)
				case name == "silent" && (time.Since(start) > 2*time.Minute || err == nil && resp.StatusCode == http.StatusOK):
					t.Errorf("a silent one lasted %s: %v", time.Since(start), err)
				}
				client.Close()
				serviceEnd.Close()
				p.Close()
				close(l)
				srv.Close()
				<-done
			})
		})
	}
}
