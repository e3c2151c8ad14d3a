//go:build conformance

package conformance_test

import (
	"strings"
	"sync"
	"time"

	"taskrole/test/conformance"
)

// verdict is what came of one client in one row.
type verdict struct {
	got  string
	note string        // why, or what the client said
	took time.Duration // until it had credentials, where that is to be told
}

// board collects verdicts of clients that run side by side, a few at a time.
type board struct {
	verdicts []conformance.Verdict
	gate     chan struct{}
	running  sync.WaitGroup
	mu       sync.Mutex // guards the maps of every verdict
}

func newBoard() *board { return &board{gate: make(chan struct{}, atOnce)} }

// row begins a row; want has a word for each of the clients.
func (b *board) row(name string, clients []string, want string) {
	v := conformance.Verdict{Environment: name, Want: map[string]string{}, Got: map[string]string{}, Notes: map[string]string{}, Took: map[string]time.Duration{}}
	for i, word := range strings.Fields(want) {
		v.Want[clients[i]] = word
	}
	b.verdicts = append(b.verdicts, v)
}

// judge lets a client run for the last row.
func (b *board) judge(client string, run func() verdict) {
	v := b.verdicts[len(b.verdicts)-1]
	b.running.Go(func() {
		b.gate <- struct{}{}
		r := run()
		<-b.gate
		b.mu.Lock()
		defer b.mu.Unlock()
		v.Got[client] = r.got
		if r.got != v.Want[client] {
			v.Notes[client] = r.note
		}
		if r.took > 0 {
			v.Took[client] = r.took
		}
	})
}

func (b *board) wait() []conformance.Verdict {
	b.running.Wait()
	return b.verdicts
}

// runnable are those of the named clients that were asked for and built.
func runnable(names []string) []client {
	var run []client
	for _, c := range clients() {
		for _, name := range names {
			if c.name == name && selected(*only, c.name) && c.cannot(conformance.ECS) == "" {
				run = append(run, c)
			}
		}
	}
	return run
}
