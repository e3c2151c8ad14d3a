package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// order is what the bench tells the first process of a container to do.
type order struct {
	Fresh    string // path of a program that gets one credential, to be started and timed; the rest is for a load
	Addr     string // host:port
	Path     string
	Requests int // each worker's
	Workers  int // all at once
	Keep     bool
}

// answer is what came of it.
type answer struct {
	Error        string // of the order as a whole
	OK, Failed   int
	FirstFailure string
	Median, Max  time.Duration
	Bodies       int    // how many different ones
	Body         []byte // one of them
}

// patience bounds one request of a load. No order takes longer than it has requests.
const patience = 20 * time.Second

// obey carries out orders until stdin ends, one JSON document each way.
func obey(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	orders, answers := json.NewDecoder(stdin), json.NewEncoder(stdout)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		a, err := o.carryOut(ctx)
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func (o order) carryOut(ctx context.Context) (answer, error) {
	if o.Fresh != "" {
		return o.fresh(ctx)
	}
	return o.load(ctx), nil
}

// fresh times a process of its own, from before it is forked until it has the credential.
func (o order) fresh(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.Fresh, o.Addr, o.Path)
	begin := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return answer{}, err
	}
	at, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return answer{}, err
	}
	took := time.Unix(0, at).Sub(begin.Round(0))
	return answer{OK: 1, Median: took, Max: took}, nil
}

// load sends the requests of all workers, who begin together.
func (o order) load(ctx context.Context) answer {
	clients := make([]client, o.Workers)
	start := make(chan struct{})
	var done sync.WaitGroup
	for i := range clients {
		clients[i] = client{order: o, took: make([]time.Duration, 0, o.Requests)}
		done.Go(func() {
			<-start
			clients[i].work(ctx)
		})
	}
	close(start)
	done.Wait()

	var a answer
	var took []time.Duration
	bodies := map[string]bool{}
	for _, c := range clients {
		took = append(took, c.took...)
		a.Failed += c.failed
		if c.err != nil && a.FirstFailure == "" {
			a.FirstFailure = c.err.Error()
		}
		if c.body != nil {
			bodies[string(c.body)] = true
			a.Body = c.body
		}
	}
	a.OK, a.Bodies = len(took), len(bodies)
	if len(took) > 0 {
		slices.Sort(took)
		a.Median, a.Max = took[len(took)/2], took[len(took)-1]
	}
	return a
}

// client is one worker. It speaks just enough HTTP, so that the machine's time goes to the server.
type client struct {
	order

	conn    net.Conn
	r       *bufio.Reader
	request []byte
	took    []time.Duration
	failed  int
	err     error
	body    []byte
}

func (c *client) work(ctx context.Context) {
	for range c.Requests {
		begin := time.Now()
		body, err := c.get(ctx)
		if err != nil {
			c.failed++
			c.err = err
			c.hangUp()
			continue
		}
		c.took = append(c.took, time.Since(begin))
		c.body = body
	}
	c.hangUp()
}

func (c *client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close() // all of the answer has been read
		c.conn = nil
	}
}

// get sends one request and reads the answer, on the open connection if there is one and it is to be kept.
func (c *client) get(ctx context.Context) ([]byte, error) {
	if c.request == nil {
		end := "\r\n\r\n"
		if !c.Keep {
			end = "\r\nConnection: close" + end
		}
		host, _, _ := strings.Cut(c.Addr, ":")
		c.request = []byte("GET " + c.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: */*" + end)
	}
	if c.conn == nil {
		conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", c.Addr)
		if err != nil {
			return nil, err
		}
		c.conn = conn
		const room = 4 << 10
		c.r = bufio.NewReaderSize(conn, room)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return nil, err
		}
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return nil, err
	}
	body, err := readAnswer(c.r, c.body)
	if !c.Keep {
		c.hangUp()
	}
	return body, err
}

// readAnswer reads an answer with a length, which all of ours have, into the room of the last one.
func readAnswer(r *bufio.Reader, room []byte) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return nil, fmt.Errorf("answered %.80q", line)
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length:")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return nil, err
			}
		}
	}
	if length < 0 {
		return nil, errors.New("an answer without a length")
	}
	body := slices.Grow(room[:0], length)[:length]
	_, err = io.ReadFull(r, body)
	return body, err
}

// serveFloor serves the body it reads from stdin, as a program would that thinks of nothing else.
func serveFloor(stdin io.Reader) error {
	body, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	const inherited = 3
	f := os.NewFile(inherited, "listener")
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	_ = f.Close() // l has a duplicate
	//nolint:gosec // without limits, deliberately: it is the least there is to do, and its clients are ours
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client is gone then
	}))
}
