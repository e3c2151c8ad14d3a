package egress

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"taskrole/internal/fault"
)

// writeLimit is how long a client may take to read our own few bytes.
const writeLimit = 5 * time.Second

// connect answers CONNECT. It returns a fault if the caller still has to answer.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) *fault.Error {
	// The raw text, not r.URL: that one has been through another parser.
	t, err := parseTarget(r.RequestURI, 0)
	if err != nil {
		return fault.Wrap(err, fault.EgressDenied, err.Error(), "CONNECT takes host:port")
	}
	if f := p.allowed(t, false); f != nil {
		return f
	}
	if f := p.begin(); f != nil {
		return f
	}
	defer p.end()
	// The request's context ends with the server's read deadline, the dial has limits of its own.
	upstream, err := p.dial(p.ctx, t)
	if err != nil {
		return fault.As(err)
	}
	defer shut(upstream)
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fault.Wrap(err, fault.Internal, "this connection cannot become a tunnel", "use HTTP/1.1")
	}
	defer shut(client)
	stop := context.AfterFunc(p.ctx, func() { shut(client, upstream) })
	defer stop()
	_ = client.SetDeadline(time.Now().Add(writeLimit))
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil // the client is gone: there is nobody to answer
	}
	_ = client.SetDeadline(time.Time{})
	tunnel(client, upstream, buf.Reader, p.idle)
	return nil
}

// tunnel copies both ways until both ends are done or nothing has moved for idle. early holds what the client sent before
// it had our answer.
func tunnel(client, upstream net.Conn, early *bufio.Reader, idle time.Duration) {
	start := time.Now()
	var last atomic.Int64 // when something moved, in nanoseconds since start
	pump := func(dst, src net.Conn, first io.Reader) {
		b := make([]byte, 32<<10) //nolint:mnd // as io.Copy
		from := first
		for {
			_ = src.SetReadDeadline(time.Now().Add(idle))
			n, err := from.Read(b)
			if n > 0 {
				last.Store(int64(time.Since(start)))
				_ = dst.SetWriteDeadline(time.Now().Add(idle))
				if _, werr := dst.Write(b[:n]); werr != nil {
					err = werr
				}
			}
			if early, ok := from.(*bufio.Reader); ok && early.Buffered() == 0 {
				from = src // its 4 KiB are of no more use
			}
			switch {
			case err == nil:
			case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(start)-time.Duration(last.Load()) < idle:
				// Silent this way, busy the other: a long download.
			case errors.Is(err, io.EOF):
				closeWrite(dst)
				return
			default:
				shut(src, dst)
				return
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pump(upstream, client, early) })
	pump(client, upstream, upstream)
	wg.Wait()
}

// shut closes what is of no more use; an error of that tells nobody anything.
func shut(conns ...net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// closeWrite passes on that the other side has no more to say. A connection that cannot say so is closed.
func closeWrite(c net.Conn) {
	for {
		if h, ok := c.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite()
			return
		}
		inner, ok := c.(interface{ NetConn() net.Conn }) // what wraps connections names the inner one so, as tls.Conn does
		if !ok {
			shut(c)
			return
		}
		c = inner.NetConn()
	}
}

// refuse answers with a fault: a JSON document, and for CONNECT also in the reason phrase, because that is all most
// clients show of a refused tunnel.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	message := f.What
	if f.Hint != "" {
		message += ": " + f.Hint
	}
	body, err := json.Marshal(map[string]string{"code": string(f.Code), "message": message})
	if err != nil { // strings always marshal
		body = []byte("{}")
	}
	if r.Method == http.MethodConnect {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			defer shut(c)
			_ = c.SetDeadline(time.Now().Add(writeLimit))
			_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				f.Status(), phrase(message), len(body), body)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.Status())
	_, _ = w.Write(body)
}

// phrase makes text fit for a status line.
func phrase(s string) string {
	const most = 250
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}
