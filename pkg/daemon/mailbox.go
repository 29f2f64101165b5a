package daemon

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/checkprocd/checkprocd/pkg/guard"
)

// errStopping answers a request that comes while the daemon ends.
var errStopping = errors.New("checkprocd is stopping")

// mailbox is how all other goroutines reach the loop: letters that it opens, one
// after the other, at the begin of a turn. Leaving one never blocks.
type mailbox struct {
	mu      sync.Mutex
	closed  bool
	letters []func()
	wake    func()
}

// leave leaves a letter; after the loop's end it says false.
func (m *mailbox) leave(letter func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.letters = append(m.letters, letter)
	m.wake()
	return true
}

// empty returns the letters that wait.
func (m *mailbox) empty() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters = nil
	return letters
}

// close refuses letters from now on and returns the last ones.
func (m *mailbox) close() []func() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	return m.empty()
}

// post leaves an observation for the loop.
func (d *Daemon) post(o guard.Observation) {
	d.mail.leave(func() { d.see(o) })
}

// inLoop has the loop run f and waits for it.
func (d *Daemon) inLoop(ctx context.Context, f func()) error {
	const begun, given = 1, 2
	var state atomic.Int32
	done := make(chan struct{})
	letter := func() {
		if state.CompareAndSwap(0, begun) {
			f()
			close(done)
		}
	}
	if !d.mail.leave(letter) {
		return errStopping
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		// Given up before it was opened, it is not carried out later.
		if state.CompareAndSwap(0, given) {
			return ctx.Err()
		}
		<-done
		return nil
	case <-d.stopped:
		return errStopping
	}
}
