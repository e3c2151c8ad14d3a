package agent

import (
	"context"
	"runtime/debug"
	"time"
)

// quiet is how long after an attachment memory is given back.
const quiet = time.Second

// tidy calls free once when nothing has been done for a while after the start, and again each time after something was
// done. The start and each attachment leave garbage, some 300 KB of it with each call to STS, and the runtime would keep
// room for as much again as it has in use: on most hosts the agent does nothing afterwards but answer from memory.
// Requests do not count as something done, and never wait for this.
func tidy(ctx context.Context, done <-chan struct{}, free func()) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			timer.Reset(quiet)
		case <-timer.C:
			free()
		}
	}
}

// giveBack returns to the kernel what is not in use. The second time also takes what lay in pools at the first.
func giveBack() {
	debug.FreeOSMemory()
	debug.FreeOSMemory()
}

// worked tells tidy that something was done.
func (a *Agent) worked() {
	select {
	case a.done <- struct{}{}:
	default: // it has not looked since the last time
	}
}
